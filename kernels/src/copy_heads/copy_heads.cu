// copy_heads: a part of each head from one layout into another, from bf16 or f32 to either.
#include "vectors.cuh"

// A thread has N numbers of a head of row blockIdx.y.
template <int N, class From, class To>
__device__ __forceinline__ void copy(To* out, const From* x, int num_heads, int width, int out_head, int x_head, int out_stride,
                                     int x_stride) {
    int index = (blockIdx.x * blockDim.x + threadIdx.x) * N, head = index / width, column = index % width;
    if (head >= num_heads) return;
    float values[N];
    load_numbers(values, x + (size_t)blockIdx.y * x_stride + (size_t)head * x_head + column);
    store_numbers(out + (size_t)blockIdx.y * out_stride + (size_t)head * out_head + column, values);
}

#define COPY_HEADS(name, N, From, To)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) name(To* out, const From* x, int num_heads, int width, int out_head, \
                                                           int x_head, int out_stride, int x_stride) {                     \
        copy<N>(out, x, num_heads, width, out_head, x_head, out_stride, x_stride);                                         \
    }                                                                                                                      \
    KERNEL_EXPORT(name)

COPY_HEADS(copy_heads_8, 8, bf16, bf16);
COPY_HEADS(copy_heads_1, 1, bf16, bf16);
COPY_HEADS(copy_heads_f32_8, 8, float, bf16);
COPY_HEADS(copy_heads_f32_1, 1, float, bf16);
COPY_HEADS(copy_heads_to_f32_8, 8, bf16, float);
COPY_HEADS(copy_heads_to_f32_1, 1, bf16, float);
COPY_HEADS(copy_heads_f32_to_f32_8, 8, float, float);
COPY_HEADS(copy_heads_f32_to_f32_1, 1, float, float);
