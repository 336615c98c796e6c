// sandwich_norm: residual = (residual + norm(x) · post_weight) · scale, then out = norm(residual) · weight; a block a row.
#include "vectors.cuh"

// Pieces of N numbers that a thread holds at most.
template <int N>
constexpr int PIECES = N == 8 ? 2 : 8;

// The factor of an RMS norm, from what each thread holds of the row.
template <int N>
__device__ __forceinline__ float norm_factor(const float (&held)[PIECES<N>][N], int cols, float eps, float* partial) {
    float sum = 0.0f;
#pragma unroll
    for (int piece = 0; piece < PIECES<N>; piece++) {
        if ((int)(piece * blockDim.x + threadIdx.x) * N >= cols) break;
#pragma unroll
        for (int i = 0; i < N; i++) sum += held[piece][i] * held[piece][i];
    }
    return rsqrtf(block_sum(sum, partial) / (float)cols + eps);
}

template <int N, class T>
__device__ __forceinline__ void sandwich_row(bf16* out, T* residual, const bf16* x, const float* post_weight, const float* weight,
                                             int cols, float scale, float eps) {
    __shared__ float partial[32];
    float held[PIECES<N>][N];
#pragma unroll
    for (int piece = 0; piece < PIECES<N>; piece++) {
        int first = (piece * blockDim.x + threadIdx.x) * N;
        if (first >= cols) break;
        load_numbers(held[piece], x + first);
    }
    float factor = norm_factor<N>(held, cols, eps, partial);
#pragma unroll
    for (int piece = 0; piece < PIECES<N>; piece++) {
        int first = (piece * blockDim.x + threadIdx.x) * N;
        if (first >= cols) break;
        float before[N], weights[N];
        load_numbers(before, (const T*)residual + first);
        load_numbers(weights, post_weight + first);
#pragma unroll
        for (int i = 0; i < N; i++) held[piece][i] = (before[i] + held[piece][i] * factor * weights[i]) * scale;
        store_numbers(residual + first, held[piece]);
    }
    factor = norm_factor<N>(held, cols, eps, partial);
#pragma unroll
    for (int piece = 0; piece < PIECES<N>; piece++) {
        int first = (piece * blockDim.x + threadIdx.x) * N;
        if (first >= cols) break;
        float weights[N];
        load_numbers(weights, weight + first);
#pragma unroll
        for (int i = 0; i < N; i++) held[piece][i] *= factor * weights[i];
        store_numbers(out + first, held[piece]);
    }
}

#define SANDWICH_NORM(name, T, N)                                                                                                \
    extern "C" __global__ void __launch_bounds__(1024)                                                                          \
        name(bf16* out, T* residual, const bf16* x, const float* post_weight, const float* weight, int cols, int out_stride,    \
             int residual_stride, int x_stride, float scale, float eps) {                                                       \
        size_t row = blockIdx.x;                                                                                                 \
        sandwich_row<N>(out + row * out_stride, residual + row * residual_stride, x + row * x_stride, post_weight, weight, cols, \
                        scale, eps);                                                                                             \
    }                                                                                                                            \
    KERNEL_EXPORT(name)

SANDWICH_NORM(sandwich_norm_8, float, 8);
SANDWICH_NORM(sandwich_norm_1, float, 1);
SANDWICH_NORM(sandwich_norm_bf16_8, bf16, 8);
SANDWICH_NORM(sandwich_norm_bf16_1, bf16, 1);
