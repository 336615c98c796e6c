// index_keys: a warp a row. Layer norm, rotation, and the key to its place, rounded to bf16. A slot of ~0 writes nothing.
#include "prims.cuh"

enum Style { NEOX = 0, INTERLEAVED = 1 };

// As `IndexKeysArgs` in cuda.rs.
struct IndexKeys {
    bf16* keys;  // [slots][head_dim]
    const float* x;
    const float *weight, *bias;
    const float *cos, *sin;  // [positions][half]
    const uint32_t *positions, *slots;
    int rows, x_stride, head_dim, half, style;
    float eps;
};

extern "C" __global__ void __launch_bounds__(128) index_keys(const IndexKeys a) {
    const int lane = threadIdx.x & 31, row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= a.rows || a.slots[row] == ~0u) return;
    const float* x = a.x + (size_t)row * a.x_stride;
    bf16* to = a.keys + (size_t)a.slots[row] * a.head_dim;
    float sum = 0.0f, squares = 0.0f;
    for (int i = lane; i < a.head_dim; i += 32) sum += x[i];
    const float mean = warp_sum(sum) / (float)a.head_dim;
    for (int i = lane; i < a.head_dim; i += 32) squares += (x[i] - mean) * (x[i] - mean);
    const float factor = rsqrtf(warp_sum(squares) / (float)a.head_dim + a.eps);
    const auto normed = [&](int i) { return (x[i] - mean) * factor * a.weight[i] + a.bias[i]; };
    for (int pair = lane; pair < a.half; pair += 32) {
        const int first = a.style == NEOX ? pair : 2 * pair, second = a.style == NEOX ? pair + a.half : first + 1;
        const size_t angle = (size_t)a.positions[row] * a.half + pair;
        const float cos = a.cos[angle], sin = a.sin[angle], p = normed(first), q = normed(second);
        to[first] = f2bf(p * cos - q * sin);
        to[second] = f2bf(q * cos + p * sin);
    }
    for (int i = 2 * a.half + lane; i < a.head_dim; i += 32) to[i] = f2bf(normed(i));
}
KERNEL_EXPORT(index_keys);
