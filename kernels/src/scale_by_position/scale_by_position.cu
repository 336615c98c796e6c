// scale_by_position: x[r] *= factors[positions[r]], in place.
#include "vectors.cuh"

template <int N>
__device__ __forceinline__ void scale_by_position(bf16* x, const unsigned* positions, const float* factors, int cols, int stride) {
    int column = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (column >= cols) return;
    float factor = factors[positions[blockIdx.y]], values[N];
    bf16* at = x + (size_t)blockIdx.y * stride + column;
    load_numbers(values, (const bf16*)at);
#pragma unroll
    for (int i = 0; i < N; i++) values[i] *= factor;
    store_numbers(at, values);
}

#define SCALE_BY_POSITION(N)                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) scale_by_position_##N(bf16* x, const unsigned* positions, \
                                                                            const float* factors, int cols, int stride) { \
        scale_by_position<N>(x, positions, factors, cols, stride);                                              \
    }                                                                                                           \
    KERNEL_EXPORT(scale_by_position_##N)

SCALE_BY_POSITION(8);
SCALE_BY_POSITION(1);
