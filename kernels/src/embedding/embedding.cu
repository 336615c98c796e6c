// embedding: out[r] = table[ids[r]] · scale, bf16 to f32.
#include "vectors.cuh"

template <int N>
__device__ __forceinline__ void embed(float* out, const bf16* table, const unsigned* ids, int cols, int out_stride, float scale) {
    int column = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (column >= cols) return;
    float values[N];
    load_numbers(values, table + (size_t)ids[blockIdx.y] * cols + column);
#pragma unroll
    for (int i = 0; i < N; i++) values[i] *= scale;
    store_numbers(out + (size_t)blockIdx.y * out_stride + column, values);
}

#define EMBEDDING(N)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                                    \
        embedding_##N(float* out, const bf16* table, const unsigned* ids, int cols, int out_stride, float scale) {       \
        embed<N>(out, table, ids, cols, out_stride, scale);                                                              \
    }                                                                                                                    \
    KERNEL_EXPORT(embedding_##N)

EMBEDDING(8);
EMBEDDING(1);
