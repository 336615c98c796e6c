// rope_write_kv: a warp a head of a row. q is normalised and rotated in place; k and v go to their pages, rounded to bf16
// or e4m3: [block][kv_head][offset][head_dim].
#include "float8.cuh"

enum Style { NEOX = 0, INTERLEAVED = 1 };

// What a warp does with its head.
struct Head {
    const bf16* from;
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

__device__ __forceinline__ void store(bf16* to, float x) { *to = f2bf(x); }
__device__ __forceinline__ void store(e4m3* to, float x) { *to = f2e4m3(x); }

// (x, y) -> (x cos a - y sin a, y cos a + x sin a) for each pair of channels; the others pass through.
template <class Number> __device__ __forceinline__ void run(const Head& head, Number* to) {
    float factor = head.weight ? norm_factor(head) : 1.0f;
    for (int pair = threadIdx.x & 31; pair < head.half; pair += 32) {
        int first = head.style == NEOX ? pair : 2 * pair, second = head.style == NEOX ? pair + head.half : first + 1;
        float x = element(head, first, factor), y = element(head, second, factor);
        float cos = head.cos[pair], sin = head.sin[pair];
        store(to + first, x * cos - y * sin);
        store(to + second, y * cos + x * sin);
    }
    for (int i = 2 * head.half + (threadIdx.x & 31); i < head.head_dim; i += 32) store(to + i, element(head, i, factor));
}

// blockIdx.x counts rows, blockIdx.y groups of heads: q's, then k's, then v's. A slot of ~0 writes nothing. `fp8`: pages
// are of e4m3.
extern "C" __global__ void __launch_bounds__(128)
    rope_write_kv(bf16* qkv, void* keys, void* values, const unsigned* positions, const unsigned* slots, const float* cos,
                  const float* sin, const float* q_weight, const float* k_weight, const float* v_weight, int stride, int q_heads,
                  int kv_heads, int head_dim, int half, int style, int block_size, int fp8, float eps) {
    int index = blockIdx.y * (blockDim.x / 32) + threadIdx.x / 32;
    if (index >= q_heads + 2 * kv_heads) return;
    size_t row = blockIdx.x;
    bf16* own = qkv + row * stride + (size_t)index * head_dim;
    Head head = {own, nullptr, nullptr, nullptr, head_dim, half, style, eps};
    bool is_v = index >= q_heads + kv_heads;
    head.weight = is_v ? v_weight : index < q_heads ? q_weight : k_weight;
    if (is_v) {
        head.half = 0;
    } else if (half) {
        head.cos = cos + (size_t)positions[row] * half;
        head.sin = sin + (size_t)positions[row] * half;
    }
    if (index < q_heads) {
        run(head, own);
        return;
    }
    unsigned slot = slots[row];
    if (slot == ~0u) return;
    if (is_v && !values) return;  // keys are all that is kept
    int kv_head = index - q_heads - (is_v ? kv_heads : 0);
    size_t page = (size_t)(slot / block_size) * kv_heads + kv_head;
    size_t at = (page * block_size + slot % block_size) * head_dim;
    void* pages = is_v ? values : keys;
    if (fp8) run(head, (e4m3*)pages + at);
    else run(head, (bf16*)pages + at);
}
KERNEL_EXPORT(rope_write_kv);
