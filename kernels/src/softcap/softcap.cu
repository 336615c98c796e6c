// softcap: x = cap · tanh(x / cap), in place, in f32.
#include "vectors.cuh"

template <int N>
__device__ __forceinline__ void softcap(float* x, int cols, int stride, float cap) {
    int column = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (column >= cols) return;
    float* at = x + (size_t)blockIdx.y * stride + column;
    float values[N];
    load_numbers(values, (const float*)at);
#pragma unroll
    for (int i = 0; i < N; i++) values[i] = cap * tanhf(values[i] / cap);
    store_numbers(at, values);
}

#define SOFTCAP(N)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) softcap_##N(float* x, int cols, int stride, float cap) { \
        softcap<N>(x, cols, stride, cap);                                                                       \
    }                                                                                                           \
    KERNEL_EXPORT(softcap_##N)

SOFTCAP(8);
SOFTCAP(1);
