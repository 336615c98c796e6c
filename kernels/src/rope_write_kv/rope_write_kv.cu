// rope_write_kv: a warp a head of a row. q is normalised and rotated in place; k and v go to their pages, rounded to bf16:
// [block][kv_head][offset][head_dim].
#include "prims.cuh"

enum Style { NEOX = 0, INTERLEAVED = 1 };

// What a warp does with its head.
struct Head {
    const bf16* from;
    bf16* to;
    const float* weight;  // of the norm; null: none
    const float *cos, *sin;
    int head_dim, half, style;
    float eps;
};

__device__ __forceinline__ float norm_factor(const Head& head) {
    float sum = 0.0f;
    for (int i = threadIdx.x & 31; i < head.head_dim; i += 32) {
        float x = bf2f(head.from[i]);
        sum += x * x;
    }
    return rsqrtf(warp_sum(sum) / (float)head.head_dim + head.eps);
}

__device__ __forceinline__ float element(const Head& head, int i, float factor) {
    float x = bf2f(head.from[i]);
    return head.weight ? x * factor * head.weight[i] : x;
}

// (x, y) -> (x cos a - y sin a, y cos a + x sin a) for each pair of channels; the others pass through.
__device__ __forceinline__ void run(const Head& head) {
    float factor = head.weight ? norm_factor(head) : 1.0f;
    for (int pair = threadIdx.x & 31; pair < head.half; pair += 32) {
        int first = head.style == NEOX ? pair : 2 * pair, second = head.style == NEOX ? pair + head.half : first + 1;
        float x = element(head, first, factor), y = element(head, second, factor);
        float cos = head.cos[pair], sin = head.sin[pair];
        head.to[first] = f2bf(x * cos - y * sin);
        head.to[second] = f2bf(y * cos + x * sin);
    }
    for (int i = 2 * head.half + (threadIdx.x & 31); i < head.head_dim; i += 32) head.to[i] = f2bf(element(head, i, factor));
}

// blockIdx.x counts rows, blockIdx.y groups of heads: q's, then k's, then v's. A slot of ~0 writes nothing.
extern "C" __global__ void __launch_bounds__(128)
    rope_write_kv(bf16* qkv, bf16* keys, bf16* values, const unsigned* positions, const unsigned* slots, const float* cos,
                  const float* sin, const float* q_weight, const float* k_weight, const float* v_weight, int stride, int q_heads,
                  int kv_heads, int head_dim, int half, int style, int block_size, float eps) {
    int index = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32;
    if (index >= q_heads + 2 * kv_heads) return;
    size_t row = blockIdx.x;
    Head head = {qkv + row * stride + (size_t)index * head_dim, nullptr, nullptr, nullptr, nullptr, head_dim, half, style, eps};
    head.to = qkv + row * stride + (size_t)index * head_dim;
    bool is_v = index >= q_heads + kv_heads;
    head.weight = is_v ? v_weight : index < q_heads ? q_weight : k_weight;
    if (is_v) {
        head.half = 0;
    } else if (half) {
        head.cos = cos + (size_t)positions[row] * half;
        head.sin = sin + (size_t)positions[row] * half;
    }
    if (index >= q_heads) {
        unsigned slot = slots[row];
        if (slot == ~0u) return;
        int kv_head = index - q_heads - (is_v ? kv_heads : 0);
        size_t page = (size_t)(slot / block_size) * kv_heads + kv_head;
        head.to = (is_v ? values : keys) + (page * block_size + slot % block_size) * head_dim;
    }
    run(head);
}
KERNEL_EXPORT(rope_write_kv);
