// cuBLASLt: matrix products of bf16 or f32, column after column like the real one, summed in f32.
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))
extern "C" void quire_sim_enqueue_product(void*, std::function<void()>*);
extern "C" int quire_sim_runs_all();

namespace {

enum { F32 = 0, BF16 = 14 };

struct Product {
    int transposes_a = 0, transposes_b = 0, epilogue = 1;
    const void* bias = nullptr;
    int bias_type = -1;
};

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;  // of columns
    int batches = 1;
    int64_t batch_stride = 0;
};

float read(const void* p, int64_t i, int type) {
    if (type == F32) return ((const float*)p)[i];
    uint32_t bits = (uint32_t)((const uint16_t*)p)[i] << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

void write(void* p, int64_t i, int type, float value) {
    if (type == F32) {
        ((float*)p)[i] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bool is_nan = value != value;
    ((uint16_t*)p)[i] = is_nan ? 0x7FFF : (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

struct Call {
    Product product;
    Layout a, b, c, d;
    const void *from_a, *from_b, *from_c;
    void* to;
    float alpha, beta;

    void run() const {
        for (int64_t batch = 0; batch < d.batches; batch++) run_batch(batch);
    }

    void run_batch(int64_t batch) const {
        int64_t m = (int64_t)d.rows, n = (int64_t)d.columns, k = (int64_t)(product.transposes_a ? a.rows : a.columns);
        std::vector<float> rows((size_t)(m * k)), column((size_t)k);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < k; j++) {
                int64_t at = product.transposes_a ? i * a.stride + j : j * a.stride + i;
                rows[(size_t)(i * k + j)] = read(from_a, batch * a.batch_stride + at, a.type);
            }
        for (int64_t j = 0; j < n; j++) {
            for (int64_t i = 0; i < k; i++) {
                int64_t at = product.transposes_b ? i * b.stride + j : j * b.stride + i;
                column[(size_t)i] = read(from_b, batch * b.batch_stride + at, b.type);
            }
            for (int64_t i = 0; i < m; i++) store(batch, i, j, dot(&rows[(size_t)(i * k)], column));
        }
    }

    static float dot(const float* row, const std::vector<float>& column) {
        float sums[16] = {};
        size_t k = column.size(), whole = k / 16 * 16;
        for (size_t i = 0; i < whole; i += 16)
            for (size_t lane = 0; lane < 16; lane++) sums[lane] += row[i + lane] * column[i + lane];
        float sum = 0;
        for (float part : sums) sum += part;
        for (size_t i = whole; i < k; i++) sum += row[i] * column[i];
        return sum;
    }

    void store(int64_t batch, int64_t row, int64_t column, float sum) const {
        float value = alpha * sum;
        if (beta != 0) value += beta * read(from_c, batch * c.batch_stride + column * c.stride + row, c.type);
        if (product.epilogue == 4) {
            value += read(product.bias, row, product.bias_type < 0 ? d.type : product.bias_type);
        }
        write(to, batch * d.batch_stride + column * d.stride + row, d.type, value);
    }
};

}  // namespace

API int cublasLtCreate(void** handle) {
    *handle = (void*)1;
    return 0;
}
API int cublasLtDestroy(void*) { return 0; }
API size_t cublasLtGetVersion() { return 130000; }
API int cublasLtMatmulDescCreate(void** product, int, int) {
    *product = new Product;
    return 0;
}
API int cublasLtMatmulDescDestroy(void* product) {
    delete (Product*)product;
    return 0;
}
// CUBLASLT_MATMUL_DESC_: 3 TRANSA, 4 TRANSB, 7 EPILOGUE, 8 BIAS_POINTER, 26 BIAS_DATA_TYPE
API int cublasLtMatmulDescSetAttribute(void* handle, int attribute, const void* value, size_t bytes) {
    auto* product = (Product*)handle;
    void* field = attribute == 3 ? (void*)&product->transposes_a
                  : attribute == 4 ? (void*)&product->transposes_b
                  : attribute == 7 ? (void*)&product->epilogue
                  : attribute == 8 ? (void*)&product->bias
                  : attribute == 26 ? (void*)&product->bias_type
                                    : nullptr;
    if (field) memcpy(field, value, bytes);
    return 0;
}
API int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    *layout = new Layout{type, rows, columns, stride};
    return 0;
}
API int cublasLtMatrixLayoutDestroy(void* layout) {
    delete (Layout*)layout;
    return 0;
}
// CUBLASLT_MATRIX_LAYOUT_: 5 BATCH_COUNT, 6 STRIDED_BATCH_OFFSET
API int cublasLtMatrixLayoutSetAttribute(void* handle, int attribute, const void* value, size_t) {
    auto* layout = (Layout*)handle;
    if (attribute == 5) memcpy(&layout->batches, value, 4);
    if (attribute == 6) memcpy(&layout->batch_stride, value, 8);
    return 0;
}
API int cublasLtMatmulPreferenceCreate(void** preference) {
    *preference = (void*)1;
    return 0;
}
API int cublasLtMatmulPreferenceDestroy(void*) { return 0; }
API int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return 0; }

struct Heuristic {
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};
API int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, Heuristic* results, int* count) {
    memset(results, 0, sizeof *results);
    *count = 1;
    return 0;
}

API int cublasLtMatmul(void*, void* product, const void* alpha, const void* a, void* a_layout, const void* b, void* b_layout,
                       const void* beta, const void* c, void* c_layout, void* d, void* d_layout, const void*, void*, size_t,
                       void* stream) {
    Call call{*(Product*)product, *(Layout*)a_layout, *(Layout*)b_layout, *(Layout*)c_layout, *(Layout*)d_layout,
              a, b, c, d, *(const float*)alpha, *(const float*)beta};
    std::function<void()> operation = [call] {
        if (quire_sim_runs_all()) call.run();
    };
    quire_sim_enqueue_product(stream, &operation);
    return 0;
}
