// sigmoid_gate: x *= sigmoid(gate), element by element.
#include "vectors.cuh"

template <int N>
__device__ __forceinline__ void hold_back(bf16* x, const bf16* gate, int cols, int x_stride, int gate_stride) {
    int column = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (column >= cols) return;
    bf16* at = x + (size_t)blockIdx.y * x_stride + column;
    float values[N], gates[N];
    load_numbers(values, at);
    load_numbers(gates, gate + (size_t)blockIdx.y * gate_stride + column);
#pragma unroll
    for (int i = 0; i < N; i++) values[i] = values[i] / (1.0f + __expf(-gates[i]));
    store_numbers(at, values);
}

#define SIGMOID_GATE(N)                                                                          \
    extern "C" __global__ void __launch_bounds__(256)                                            \
        sigmoid_gate_##N(bf16* x, const bf16* gate, int cols, int x_stride, int gate_stride) {   \
        hold_back<N>(x, gate, cols, x_stride, gate_stride);                                      \
    }                                                                                            \
    KERNEL_EXPORT(sigmoid_gate_##N)

SIGMOID_GATE(8);
SIGMOID_GATE(1);
