// weigh_experts: x[place(r, e)] *= weight[r][e], in place; a block has columns of one row and expert.
#include "vectors.cuh"

template <int N>
__device__ __forceinline__ void weigh(bf16* x, const uint32_t* places, const float* weights, int cols, int stride) {
    const int column = (blockIdx.y * blockDim.x + threadIdx.x) * N;
    if (column >= cols) return;
    bf16* at = x + (size_t)places[blockIdx.x] * stride + column;
    const float weight = weights[blockIdx.x];
    float numbers[N];
    load_numbers(numbers, (const bf16*)at);
#pragma unroll
    for (int i = 0; i < N; i++) numbers[i] *= weight;
    store_numbers(at, numbers);
}

#define WEIGH_EXPERTS(N)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256)                                                                \
        weigh_experts_##N(bf16* x, const uint32_t* places, const float* weights, int cols, int stride) {             \
        weigh<N>(x, places, weights, cols, stride);                                                                  \
    }                                                                                                                \
    KERNEL_EXPORT(weigh_experts_##N)

WEIGH_EXPERTS(8);
WEIGH_EXPERTS(1);
