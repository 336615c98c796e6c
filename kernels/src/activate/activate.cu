// activate: out = activation(x), element by element.
#include "activations.cuh"
#include "vectors.cuh"

template <int N, class Activation>
__device__ __forceinline__ void activate(bf16* out, const bf16* x, int cols, int out_stride, int x_stride) {
    int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
    if (column >= cols) return;
    float values[N];
    load_numbers(values, x + (size_t)blockIdx.x * x_stride + column);
#pragma unroll
    for (int i = 0; i < N; i++) values[i] = Activation::of(values[i], 1.0f, 0.0f, 0.0f);
    store_numbers(out + (size_t)blockIdx.x * out_stride + column, values);
}

#define ACTIVATE(name, N, Activation)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) name(bf16* out, const bf16* x, int cols, int out_stride, int x_stride) { \
        activate<N, Activation>(out, x, cols, out_stride, x_stride);                                                       \
    }                                                                                                                      \
    KERNEL_EXPORT(name)

ACTIVATE(silu_8, 8, Silu);
ACTIVATE(silu_1, 1, Silu);
ACTIVATE(gelu_8, 8, Gelu);
ACTIVATE(gelu_1, 1, Gelu);
ACTIVATE(gelu_tanh_8, 8, GeluTanh);
ACTIVATE(gelu_tanh_1, 1, GeluTanh);
