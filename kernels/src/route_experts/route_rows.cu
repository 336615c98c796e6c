// route_rows: a warp chooses the experts of a row. What is chosen next is the largest of 64-bit keys: the number in an
// order of integers, then the lower expert.
#include <float.h>

#include "prims.cuh"

// As `RouteArgs` in cuda.rs.
struct RouteArgs {
    const float* logits;         // [rows, num_experts], rows logits_stride apart
    const float* choice_bias;    // [num_experts] or null
    const float* expert_scales;  // [num_experts] or null
    uint32_t* experts;           // [rows, num_chosen]
    float* weights;              // [rows, num_chosen]
    int num_experts, num_chosen, logits_stride;
    int num_groups, chosen_groups;  // 0 groups: all experts can be chosen
    int is_sigmoid, normalises;
    float scale;
};

// Grows with the number; what is no number comes last, and 0 is less than every key.
__device__ __forceinline__ uint64_t choice_key(float number, int expert) {
    const uint32_t bits = __float_as_uint(number == 0.f ? 0.f : number);
    const uint32_t order = number != number ? 1u : bits >> 31 ? ~bits : bits | 0x80000000u;
    return (uint64_t)order << 32 | ~(uint32_t)expert;
}

__device__ __forceinline__ uint64_t largest_key(uint64_t key) {
    for (int distance = 16; distance; distance >>= 1) {
        const uint64_t other = (uint64_t)__shfl_xor_sync(~0u, (unsigned long long)key, distance);
        key = other > key ? other : key;
    }
    return key;
}

// Scores of all experts and the keys that they are chosen by.
__device__ __forceinline__ void score(const RouteArgs& a, const float* logits, float* scores, uint64_t* keys) {
    const int lane = threadIdx.x;
    float largest = -INFINITY, sum = 0.f;
    if (!a.is_sigmoid) {
        for (int e = lane; e < a.num_experts; e += 32) largest = fmaxf(largest, logits[e]);
        largest = warp_max(largest);
    }
    for (int e = lane; e < a.num_experts; e += 32) {
        scores[e] = a.is_sigmoid ? 1.f / (1.f + expf(-logits[e])) : expf(logits[e] - largest);
        sum += scores[e];
    }
    if (!a.is_sigmoid) sum = warp_sum(sum);
    for (int e = lane; e < a.num_experts; e += 32) {
        if (!a.is_sigmoid) scores[e] = __fdiv_rn(scores[e], sum);
        // Scores grow with the logits, which never round to equal numbers.
        keys[e] = choice_key(a.choice_bias ? __fadd_rn(scores[e], a.choice_bias[e]) : logits[e], e);
    }
    __syncwarp();
}

// What experts of a group add up to: the two best.
__device__ __forceinline__ float worth_of(const RouteArgs& a, const float* logits, const float* scores, int first, int size) {
    float best = -INFINITY, second = -INFINITY;
    for (int e = first; e < first + size; e++) {
        const float number = a.choice_bias ? __fadd_rn(scores[e], a.choice_bias[e]) : logits[e];
        if (number > best) second = best, best = number;
        else if (number > second) second = number;
    }
    return __fadd_rn(best, second);
}

// Takes the experts of all but the best groups out of the choice.
__device__ __forceinline__ void leave_out_groups(const RouteArgs& a, const float* logits, const float* scores, uint64_t* keys, float* worth) {
    const int size = a.num_experts / a.num_groups;
    for (int g = threadIdx.x; g < a.num_groups; g += 32) worth[g] = worth_of(a, logits, scores, g * size, size);
    __syncwarp();
    for (int g = threadIdx.x; g < a.num_groups; g += 32) {
        int num_better = 0;
        for (int other = 0; other < a.num_groups; other++)
            num_better += worth[other] > worth[g] || (worth[other] == worth[g] && other < g);
        if (num_better < a.chosen_groups) continue;
        for (int e = g * size; e < (g + 1) * size; e++) keys[e] = 0;
    }
    __syncwarp();
}

// Dynamic shared memory: a key, a score and a number for a group, each of every expert.
extern "C" __global__ void __launch_bounds__(32) route_rows(const RouteArgs a) {
    EXTERN_SHARED(shared);
    uint64_t* keys = (uint64_t*)shared;
    float *scores = (float*)(keys + a.num_experts), *worth = scores + a.num_experts;
    const int lane = threadIdx.x;
    const float* logits = a.logits + (size_t)blockIdx.x * a.logits_stride;
    uint32_t* experts = a.experts + (size_t)blockIdx.x * a.num_chosen;
    float* weights = a.weights + (size_t)blockIdx.x * a.num_chosen;
    score(a, logits, scores, keys);
    if (a.num_groups) leave_out_groups(a, logits, scores, keys, worth);
    float sum = 0.f;
    for (int c = 0; c < a.num_chosen; c++) {
        uint64_t best = 0;
        for (int e = lane; e < a.num_experts; e += 32) best = keys[e] > best ? keys[e] : best;
        const uint32_t expert = ~(uint32_t)largest_key(best);
        sum = __fadd_rn(sum, scores[expert]);
        if ((int)expert % 32 == lane) {
            keys[expert] = 0;
            experts[c] = expert;
            weights[c] = scores[expert];
        }
        __syncwarp();
    }
    // A sum of 0 (all scores too small) gives weights of 0.
    const float factor = a.normalises ? __fdiv_rn(a.scale, __fadd_rn(sum, FLT_MIN)) : a.scale;
    for (int c = lane; c < a.num_chosen; c += 32) {
        weights[c] = __fmul_rn(weights[c], factor);
        if (a.expert_scales) weights[c] = __fmul_rn(weights[c], a.expert_scales[experts[c]]);
    }
}

KERNEL_EXPORT(route_rows);
