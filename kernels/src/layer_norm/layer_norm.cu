// layer_norm and its two sums: a block a row, the row in registers, sums in f32. The variance is that of what the mean was
// taken from: it does not cancel.
#include "vectors.cuh"

// Pieces of N numbers that a thread holds at most.
template <int N>
constexpr int PIECES = N == 8 ? 2 : 8;

struct LayerNormArgs {
    bf16* out;
    float* residual;
    const bf16* x;
    const float *weight, *bias;  // bias: may be null
    int cols, out_stride, residual_stride, x_stride;
    float eps;
    int pad;
};

// The sum of `of` over the numbers that this thread holds.
template <int N, class Of>
__device__ __forceinline__ float sum_pieces(const float (&held)[PIECES<N>][N], int cols, Of of) {
    float sum = 0.0f;
#pragma unroll
    for (int piece = 0; piece < PIECES<N>; piece++) {
        if ((piece * (int)blockDim.x + (int)threadIdx.x) * N >= cols) break;
#pragma unroll
        for (int i = 0; i < N; i++) sum += of(held[piece][i]);
    }
    return sum;
}

// ADDS: residual += x before. KEEPS_NORM: the residual stream becomes the norm; else it keeps the sum.
template <int N, bool ADDS, bool KEEPS_NORM>
__device__ __forceinline__ void norm_row(const LayerNormArgs& a) {
    __shared__ float partial[32];
    const size_t row = blockIdx.x;
    float* residual = a.residual + row * a.residual_stride;
    float held[PIECES<N>][N];
#pragma unroll
    for (int piece = 0; piece < PIECES<N>; piece++) {
        const int first = (piece * blockDim.x + threadIdx.x) * N;
        if (first >= a.cols) break;
        load_numbers(held[piece], (const float*)residual + first);
        if (ADDS) {
            float added[N];
            load_numbers(added, a.x + row * a.x_stride + first);
#pragma unroll
            for (int i = 0; i < N; i++) held[piece][i] += added[i];
            if (!KEEPS_NORM) store_numbers(residual + first, held[piece]);
        }
    }
    const float mean = block_sum(sum_pieces<N>(held, a.cols, [](float x) { return x; }), partial) / (float)a.cols;
    const auto squared = [mean](float x) { return (x - mean) * (x - mean); };
    const float variance = block_sum(sum_pieces<N>(held, a.cols, squared), partial) / (float)a.cols;
    const float scale = rsqrtf(variance + a.eps);
#pragma unroll
    for (int piece = 0; piece < PIECES<N>; piece++) {
        const int first = (piece * blockDim.x + threadIdx.x) * N;
        if (first >= a.cols) break;
        float factor[N], shift[N];
        load_numbers(factor, a.weight + first);
#pragma unroll
        for (int i = 0; i < N; i++) shift[i] = 0.0f;
        if (a.bias) load_numbers(shift, a.bias + first);
#pragma unroll
        for (int i = 0; i < N; i++) held[piece][i] = (held[piece][i] - mean) * scale * factor[i] + shift[i];
        store_numbers(a.out + row * a.out_stride + first, held[piece]);
        if (KEEPS_NORM) store_numbers(residual + first, held[piece]);
    }
}

#define LAYER_NORM(name, N, ADDS, KEEPS_NORM)                                                      \
    extern "C" __global__ void __launch_bounds__(1024) name(const LayerNormArgs a) {               \
        norm_row<N, ADDS, KEEPS_NORM>(a);                                                          \
    }                                                                                              \
    KERNEL_EXPORT(name)

LAYER_NORM(layer_norm_8, 8, false, true);
LAYER_NORM(layer_norm_1, 1, false, true);
LAYER_NORM(add_layer_norm_8, 8, true, false);
LAYER_NORM(add_layer_norm_1, 1, true, false);
LAYER_NORM(post_layer_norm_8, 8, true, true);
LAYER_NORM(post_layer_norm_1, 1, true, true);
