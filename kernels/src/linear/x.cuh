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
    const bf16* bias;       // [out_features] or null
    int rows, in_features, out_features;
    int x_stride, out_stride;
    int out_is_f32;
    float factor;           // of all products
    int pad;
};

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
        sum = __fmul_rn(sum, a.factor);
        if (a.bias) sum = __fadd_rn(sum, bf2f(a.bias[feature]));
        const size_t at = (size_t)row * a.out_stride + feature;
        if (a.out_is_f32) ((float*)a.out)[at] = sum;
        else ((bf16*)a.out)[at] = f2bf(sum);
    }
}
