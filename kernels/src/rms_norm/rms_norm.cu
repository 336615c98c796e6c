// rms_norm and add_rms_norm: a block a row, the row in registers, sums in f32.
#include "vectors.cuh"

// Pieces of N numbers that a thread holds at most.
template <int N>
constexpr int PIECES = N == 8 ? 2 : 8;

// out = norm(residual) · weight; with ADDS, residual += x before. Strides are in elements.
template <int N, bool ADDS, class T>
__device__ __forceinline__ void norm_row(bf16* out, T* residual, const bf16* x, const float* weight, int cols, int out_stride,
                                         int residual_stride, int x_stride, float eps) {
    __shared__ float partial[32];
    size_t row = blockIdx.x;
    T* residual_row = residual + row * residual_stride;
    float held[PIECES<N>][N], sum = 0.0f;
#pragma unroll
    for (int piece = 0; piece < PIECES<N>; piece++) {
        int first = (piece * blockDim.x + threadIdx.x) * N;
        if (first >= cols) break;
        load_numbers(held[piece], (const T*)residual_row + first);
        if (ADDS) {
            float added[N];
            load_numbers(added, x + row * x_stride + first);
#pragma unroll
            for (int i = 0; i < N; i++) held[piece][i] += added[i];
            store_numbers(residual_row + first, held[piece]);
        }
#pragma unroll
        for (int i = 0; i < N; i++) sum += held[piece][i] * held[piece][i];
    }
    float scale = rsqrtf(block_sum(sum, partial) / (float)cols + eps);
#pragma unroll
    for (int piece = 0; piece < PIECES<N>; piece++) {
        int first = (piece * blockDim.x + threadIdx.x) * N;
        if (first >= cols) break;
        float factor[N];
        load_numbers(factor, weight + first);
#pragma unroll
        for (int i = 0; i < N; i++) held[piece][i] *= scale * factor[i];
        store_numbers(out + row * out_stride + first, held[piece]);
    }
}

#define RMS_NORM(name, T, N)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(1024)                                                                          \
        name(bf16* out, T* x, const float* weight, int cols, int out_stride, int x_stride, float eps) {                         \
        norm_row<N, false>(out, x, nullptr, weight, cols, out_stride, x_stride, 0, eps);                                        \
    }                                                                                                                           \
    KERNEL_EXPORT(name)

#define ADD_RMS_NORM(N)                                                                                                         \
    extern "C" __global__ void __launch_bounds__(1024) add_rms_norm_##N(bf16* out, float* residual, const bf16* x,              \
                                                                        const float* weight, int cols, int out_stride,          \
                                                                        int residual_stride, int x_stride, float eps) {         \
        norm_row<N, true>(out, residual, x, weight, cols, out_stride, residual_stride, x_stride, eps);                          \
    }                                                                                                                           \
    KERNEL_EXPORT(add_rms_norm_##N)

RMS_NORM(rms_norm_8, float, 8);
RMS_NORM(rms_norm_1, float, 1);
RMS_NORM(rms_norm_bf16_8, bf16, 8);
RMS_NORM(rms_norm_bf16_1, bf16, 1);
ADD_RMS_NORM(8);
ADD_RMS_NORM(1);
