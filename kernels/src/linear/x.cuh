// Rows of x and rows of the output, as the kernels of `linear` meet them.
#pragma once
#include "prims.cuh"

constexpr int LINEAR_WARPS = 8;
constexpr int LINEAR_THREADS = 32 * LINEAR_WARPS;
// Weights that a warp takes at once: warp w has those of 256w, 256 (w + 8), ... The sums of the warps are added in order:
// so an output's additions have one order, whatever the batch.
constexpr int SPLIT_WEIGHTS = 256;

// As `LinearArgs` in cuda.rs.
struct LinearArgs {
    void* out;              // [rows, out_features], bf16 or f32, rows out_stride apart
    const bf16* x;          // [rows, in_features], rows x_stride apart
    const uint8_t* weight;  // dense: bf16 [out_features, in_features]; else the codes
    const uint8_t* scales;
    const bf16* bias;       // [out_features] of the type of out, or null
    int rows, in_features, out_features;
    int x_stride, out_stride;
    int out_is_f32;
    float factor;           // of all products
    int clears;             // of embeddings: rows of ids that the table has not become 0
};

// The row of an id that a part of a table has not.
__device__ __forceinline__ void pass_over(const LinearArgs& a) {
    if (!a.clears) return;
    float* out = (float*)a.out + (size_t)blockIdx.x * a.out_stride;
    for (int k = threadIdx.x; k < a.in_features; k += blockDim.x) out[k] = 0;
}

// The rows of x that this lane multiplies with, one of each 8; null where there is none.
template <int TILES>
struct LaneRows {
    const bf16* row[TILES];
    int in_features;

    // 4 or 8 neighbours; zeros beyond the end.
    __device__ __forceinline__ uint2 four(int t, int k) const {
        if (!row[t] || k >= in_features) return {0u, 0u};
        return *(const uint2*)(row[t] + k);
    }
    __device__ __forceinline__ uint4 eight(int t, int k) const {
        if (!row[t] || k >= in_features) return {0u, 0u, 0u, 0u};
        return *(const uint4*)(row[t] + k);
    }
};

template <int TILES>
__device__ __forceinline__ LaneRows<TILES> take_rows(const LinearArgs& a, int first_row) {
    LaneRows<TILES> x;
    x.in_features = a.in_features;
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        const int row = first_row + t * 8 + (int)(threadIdx.x & 31) / 4;
        x.row[t] = row < a.rows ? a.x + (size_t)row * a.x_stride : nullptr;
    }
    return x;
}

// The output that `sum` becomes.
__device__ __forceinline__ void write_output(const LinearArgs& a, float sum, int row, int feature) {
    sum = __fmul_rn(sum, a.factor);
    if (a.bias) sum = __fadd_rn(sum, a.out_is_f32 ? ((const float*)a.bias)[feature] : bf2f(a.bias[feature]));
    const size_t at = (size_t)row * a.out_stride + feature;
    if (a.out_is_f32) ((float*)a.out)[at] = sum;
    else ((bf16*)a.out)[at] = f2bf(sum);
}

// Adds up what the warps have of 16 features x 8 · TILES rows, and writes it.
template <int TILES>
__device__ __forceinline__ void reduce_and_write(const LinearArgs& a, const float (&total)[TILES][4], int first_feature, int first_row) {
    __shared__ float partial[LINEAR_WARPS][TILES * 128];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int k = 0; k < 4; k++)  // [row of x][feature]
            partial[warp][(t * 8 + lane % 4 * 2 + k % 2) * 16 + lane / 4 + k / 2 * 8] = total[t][k];
    __syncthreads();
    for (int i = threadIdx.x; i < TILES * 128; i += LINEAR_THREADS) {
        const int row = first_row + i / 16, feature = first_feature + i % 16;
        if (row >= a.rows || feature >= a.out_features) continue;
        float sum = partial[0][i];
        for (int w = 1; w < LINEAR_WARPS; w++) sum = __fadd_rn(sum, partial[w][i]);
        write_output(a, sum, row, feature);
    }
}
