// head_linear: a matrix of bf16 for each head. Few rows: a warp has 16 features of one head and all their weights, rows of x
// are operand A of mma.sync, rows of the weight operand B. A lane loads 8 neighbours of both: as both are permuted the same
// way, the sum is the same. Each output is one chain of products in the order of k, whatever the rows beside it.
#include "prims.cuh"

constexpr int HEAD_THREADS = 256, HEAD_FEATURES = 16 * HEAD_THREADS / 32, HEAD_ROWS = 16;

// As `HeadArgs` in heads.rs.
struct HeadArgs {
    bf16* out;           // [rows], head h from column h * out_head on
    const bf16* x;       // [rows], head h from column h * x_head on
    const bf16* weight;  // [head][out_features][in_features]
    int rows, in_features, out_features;
    int x_stride, out_stride, x_head, out_head;
    int pad;
};

// The 8 numbers at `k` of a row of `count`; zeros beyond its end, and where there is no row. WIDE: rows lie at multiples of 16
// bytes and are whole.
template <bool WIDE> __device__ __forceinline__ uint4 load_row8(const bf16* row, int k, int count) {
    uint4 words = {0u, 0u, 0u, 0u};
    if (!row) return words;
    if constexpr (WIDE) {
        if (k < count) words = *(const uint4*)(row + k);
    } else {
        uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t low = k + 2 * i < count ? row[k + 2 * i].bits : 0u, high = k + 2 * i + 1 < count ? row[k + 2 * i + 1].bits : 0u;
            pairs[i] = high << 16 | low;
        }
        words = {pairs[0], pairs[1], pairs[2], pairs[3]};
    }
    return words;
}

template <bool WIDE> __device__ __forceinline__ void multiply_heads(const HeadArgs& a) {
    const int lane = threadIdx.x & 31, head = blockIdx.z, first_row = blockIdx.y * HEAD_ROWS;
    const int first_feature = blockIdx.x * HEAD_FEATURES + (threadIdx.x >> 5) * 16;
    if (first_feature >= a.out_features) return;
    const bf16 *x[2], *weight[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int row = first_row + lane / 4 + 8 * i, feature = first_feature + lane / 4 + 8 * i;
        x[i] = row < a.rows ? a.x + (size_t)row * a.x_stride + (size_t)head * a.x_head : nullptr;
        weight[i] = feature < a.out_features ? a.weight + ((size_t)head * a.out_features + feature) * a.in_features : nullptr;
    }
    float sum[2][4] = {};
#pragma unroll 4
    for (int k = lane % 4 * 8; k - lane % 4 * 8 < a.in_features; k += 32) {
        const uint4 low = load_row8<WIDE>(x[0], k, a.in_features), high = load_row8<WIDE>(x[1], k, a.in_features);
        const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint4 w = load_row8<WIDE>(weight[i], k, a.in_features);
            mma16816(sum[i], first, w.x, w.y);
            mma16816(sum[i], second, w.z, w.w);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int row = first_row + lane / 4 + k / 2 * 8, feature = first_feature + 8 * i + lane % 4 * 2 + k % 2;
            if (row < a.rows && feature < a.out_features)
                a.out[(size_t)row * a.out_stride + (size_t)head * a.out_head + feature] = f2bf(sum[i][k]);
        }
}

// blockIdx: features, rows, heads.
extern "C" __global__ void __launch_bounds__(HEAD_THREADS, 2) head_linear_8(const HeadArgs a) { multiply_heads<true>(a); }
extern "C" __global__ void __launch_bounds__(HEAD_THREADS, 2) head_linear_1(const HeadArgs a) { multiply_heads<false>(a); }
KERNEL_EXPORT(head_linear_8);
KERNEL_EXPORT(head_linear_1);
