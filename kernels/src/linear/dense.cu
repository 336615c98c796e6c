// A weight of bf16, row after row. Few rows of x: a block has 16 features, its warps take turns at 256 weights; rows of the
// weight go from memory straight into operand A of mma.sync, rows of x into operand B. A lane loads 8 neighbours of both:
// as both are permuted the same way, the sum is the same. Rows begin at multiples of 16 bytes.
#include "many_rows.cuh"

// Where the weights of the two features of this lane begin.
struct DenseRows {
    const bf16* weight[2];

    __device__ __forceinline__ DenseRows() {}
    __device__ __forceinline__ DenseRows(const LinearArgs& a, int first_feature) {
        const int lane = threadIdx.x & 31;
        for (int i = 0; i < 2; i++)  // features behind the last repeat it
            weight[i] = (const bf16*)a.weight + (size_t)min(first_feature + lane / 4 + 8 * i, a.out_features - 1) * a.in_features;
    }

    // Adds the products of the 256 weights from `start` on with rows of x, in which these begin at `first` and all end at
    // `end`.
    template <int TILES, class Rows>
    __device__ __forceinline__ void add(float (&total)[TILES][4], const Rows& x, int start, int first, int end) const {
        const int lane = threadIdx.x & 31;
#pragma unroll(TILES > 2 ? 2 : 4)
        for (int part = 0; part < SPLIT_WEIGHTS; part += 32) {
            const int k = part + lane % 4 * 8;
            uint4 w[2] = {};
            for (int i = 0; i < 2; i++)
                if (first + k < end) w[i] = ld_stream(weight[i] + start + k);
            const uint32_t low[4] = {w[0].x, w[1].x, w[0].y, w[1].y}, high[4] = {w[0].z, w[1].z, w[0].w, w[1].w};
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                const uint4 numbers = x.eight(t, first + k);
                mma16816(total[t], low, numbers.x, numbers.y);
                mma16816(total[t], high, numbers.z, numbers.w);
            }
        }
    }
};

// 16 features x rows `x`, which are those from `first_row` on.
template <int TILES>
__device__ __forceinline__ void few_rows(const LinearArgs& a, const LaneRows<TILES>& x, int first_feature, int first_row) {
    const DenseRows weights(a, first_feature);
    float total[TILES][4] = {};
    for (int start = (threadIdx.x >> 5) * SPLIT_WEIGHTS; start < a.in_features; start += LINEAR_WARPS * SPLIT_WEIGHTS)
        weights.add(total, x, start, start, a.in_features);
    reduce_and_write<TILES>(a, total, first_feature, first_row);
}

// The same 256 weights for `many_rows`: lanes read 16 bytes of x at once.
struct StagedDense {
    static constexpr int PAD_BYTES = 64;
    DenseRows weights;
    int first_weight;

    __device__ __forceinline__ void start(const LinearArgs& a, int tile, int record) {
        weights = DenseRows(a, tile * 16);
        first_weight = record * SPLIT_WEIGHTS;
    }
    template <int TILES, class Rows>
    __device__ __forceinline__ void add(float (&total)[TILES][4], const Rows& x, int first, int end) const {
        weights.add(total, x, first_weight, first, end);
    }
};

template <int TILES>
__device__ __forceinline__ void linear_rows(const LinearArgs& a) {
    const int first_row = blockIdx.y * 8 * TILES;
    few_rows(a, take_rows<TILES>(a, first_row), blockIdx.x * 16, first_row);
}

template <int TILES>
__device__ __forceinline__ void expert_rows(LinearArgs a, const ExpertArgs& e) {
    const int first_place = take_expert(a, e);
    if (first_place < 0) return;
    few_rows(a, take_places<TILES>(a, e, first_place), blockIdx.y * 16, first_place);
}

extern "C" __global__ void __launch_bounds__(LINEAR_THREADS, 2) linear_bf16_8(const LinearArgs a) { linear_rows<1>(a); }
extern "C" __global__ void __launch_bounds__(LINEAR_THREADS, 2) linear_bf16_16(const LinearArgs a) { linear_rows<2>(a); }
extern "C" __global__ void __launch_bounds__(LINEAR_THREADS, 2) expert_linear_bf16_8(const LinearArgs a, const ExpertArgs e) {
    expert_rows<1>(a, e);
}
extern "C" __global__ void __launch_bounds__(LINEAR_THREADS, 2) expert_linear_bf16_16(const LinearArgs a, const ExpertArgs e) {
    expert_rows<2>(a, e);
}
extern "C" __global__ void __launch_bounds__(LINEAR_THREADS, 1) expert_linear_bf16_64(const LinearArgs a, const ExpertArgs e) {
    many_rows<StagedDense>(a, e);
}

// Row `ids[blockIdx.x]` of the table, whose part here begins at row `first`, into row blockIdx.x of `out` (f32).
extern "C" __global__ void __launch_bounds__(LINEAR_THREADS) embedding_bf16(const LinearArgs a, const uint32_t* ids, int first) {
    const int feature = (int)ids[blockIdx.x] - first;
    if (feature < 0 || feature >= a.out_features) return pass_over(a);
    const bf16* row = (const bf16*)a.weight + (size_t)feature * a.in_features;
    float* out = (float*)a.out + (size_t)blockIdx.x * a.out_stride;
    for (int k = threadIdx.x; k < a.in_features; k += LINEAR_THREADS) out[k] = bf2f(row[k]) * a.factor;
}

KERNEL_EXPORT(linear_bf16_8);
KERNEL_EXPORT(linear_bf16_16);
KERNEL_EXPORT(expert_linear_bf16_8);
KERNEL_EXPORT(expert_linear_bf16_16);
KERNEL_EXPORT(expert_linear_bf16_64);
KERNEL_EXPORT(embedding_bf16);
