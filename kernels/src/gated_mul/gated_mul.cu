// gated_mul: out = activation(gate) · up, element by element.
#include "activations.cuh"
#include "vectors.cuh"

template <int N, class Activation>
__device__ __forceinline__ void gated_mul(bf16* out, const bf16* gate_up, int cols, int out_stride, int gate_up_stride, float alpha,
                                          float limit) {
    int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
    if (column >= cols) return;
    const bf16* row = gate_up + (size_t)blockIdx.x * gate_up_stride;
    float gate[N], up[N];
    load_numbers(gate, row + column);
    load_numbers(up, row + cols + column);
#pragma unroll
    for (int i = 0; i < N; i++) up[i] = Activation::of(gate[i], up[i], alpha, limit);
    store_numbers(out + (size_t)blockIdx.x * out_stride + column, up);
}

#define GATED_MUL(name, N, Activation)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256)                                                                         \
        name(bf16* out, const bf16* gate_up, int cols, int out_stride, int gate_up_stride, float alpha, float limit) {        \
        gated_mul<N, Activation>(out, gate_up, cols, out_stride, gate_up_stride, alpha, limit);                               \
    }                                                                                                                         \
    KERNEL_EXPORT(name)

GATED_MUL(silu_mul_8, 8, Silu);
GATED_MUL(silu_mul_1, 1, Silu);
GATED_MUL(gelu_mul_8, 8, Gelu);
GATED_MUL(gelu_mul_1, 1, Gelu);
GATED_MUL(gelu_tanh_mul_8, 8, GeluTanh);
GATED_MUL(gelu_tanh_mul_1, 1, GeluTanh);
GATED_MUL(clamped_swiglu_8, 8, ClampedSwiglu);
GATED_MUL(clamped_swiglu_1, 1, ClampedSwiglu);
