// A weight of bf16, row after row. Few rows of x: a block has 16 features, its warps take turns at 256 weights; rows of the
// weight go from memory straight into operand A of mma.sync, rows of x into operand B. A lane loads 8 neighbours of both:
// as both are permuted the same way, the sum is the same. Rows begin at multiples of 16 bytes.
#include "x.cuh"

// The 8 numbers of x at `k` of row `row`; zeros beyond.
__device__ __forceinline__ uint4 load_x8(const LinearArgs& a, int row, int k) {
    if (row >= a.rows || k >= a.in_features) return {0u, 0u, 0u, 0u};
    return *(const uint4*)(a.x + (size_t)row * a.x_stride + k);
}

template <int TILES>
__device__ __forceinline__ void few_rows(const LinearArgs& a) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, first_feature = blockIdx.x * 16, first_row = blockIdx.y * 8 * TILES;
    const bf16* weight[2];
    for (int i = 0; i < 2; i++)  // features behind the last repeat it
        weight[i] = (const bf16*)a.weight + (size_t)min(first_feature + lane / 4 + 8 * i, a.out_features - 1) * a.in_features;
    float total[TILES][4] = {};
    for (int start = warp * SPLIT_WEIGHTS; start < a.in_features; start += LINEAR_WARPS * SPLIT_WEIGHTS) {
#pragma unroll 4
        for (int part = 0; part < SPLIT_WEIGHTS; part += 32) {
            const int k = start + part + lane % 4 * 8;
            uint4 w[2] = {};
            for (int i = 0; i < 2; i++)
                if (k < a.in_features) w[i] = ld_stream(weight[i] + k);
            const uint32_t first[4] = {w[0].x, w[1].x, w[0].y, w[1].y}, second[4] = {w[0].z, w[1].z, w[0].w, w[1].w};
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                const uint4 x = load_x8(a, first_row + t * 8 + lane / 4, k);
                mma16816(total[t], first, x.x, x.y);
                mma16816(total[t], second, x.z, x.w);
            }
        }
    }
    reduce_and_write<TILES>(a, total, first_feature, first_row);
}

extern "C" __global__ void __launch_bounds__(LINEAR_THREADS, 2) linear_bf16_8(const LinearArgs a) { few_rows<1>(a); }
extern "C" __global__ void __launch_bounds__(LINEAR_THREADS, 2) linear_bf16_16(const LinearArgs a) { few_rows<2>(a); }

// Row `ids[blockIdx.x]` of the table, whose part here begins at row `first`, into row blockIdx.x of `out` (f32).
extern "C" __global__ void __launch_bounds__(LINEAR_THREADS) embedding_bf16(const LinearArgs a, const uint32_t* ids, int first) {
    const int feature = (int)ids[blockIdx.x] - first;
    if (feature < 0 || feature >= a.out_features) return;
    const bf16* row = (const bf16*)a.weight + (size_t)feature * a.in_features;
    float* out = (float*)a.out + (size_t)blockIdx.x * a.out_stride;
    for (int k = threadIdx.x; k < a.in_features; k += LINEAR_THREADS) out[k] = bf2f(row[k]) * a.factor;
}

KERNEL_EXPORT(linear_bf16_8);
KERNEL_EXPORT(linear_bf16_16);
KERNEL_EXPORT(embedding_bf16);
