// mean_rows: out[s] = mean of the rows starts[s] .. ends[s] of x. A thread has N columns and adds up rows in order, in f32.
#include "vectors.cuh"

template <int N>
__device__ __forceinline__ void mean_rows(bf16* out, const bf16* x, const unsigned* starts, const unsigned* ends, int cols, int out_stride,
                                          int x_stride) {
    int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
    if (column >= cols) return;
    const unsigned start = starts[blockIdx.x], end = ends[blockIdx.x];
    float sum[N];
#pragma unroll
    for (int i = 0; i < N; i++) sum[i] = 0.0f;
#pragma unroll 4
    for (unsigned row = start; row < end; row++) {
        float values[N];
        load_numbers(values, x + (size_t)row * x_stride + column);
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] += values[i];
    }
#pragma unroll
    for (int i = 0; i < N; i++) sum[i] /= (float)(end - start);
    store_numbers(out + (size_t)blockIdx.x * out_stride + column, sum);
}

#define MEAN_ROWS(N)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) mean_rows_##N(bf16* out, const bf16* x, const unsigned* starts,      \
                                                                    const unsigned* ends, int cols, int out_stride, int x_stride) { \
        mean_rows<N>(out, x, starts, ends, cols, out_stride, x_stride);                                                    \
    }                                                                                                                      \
    KERNEL_EXPORT(mean_rows_##N)

MEAN_ROWS(2);
MEAN_ROWS(1);
