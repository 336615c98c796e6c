// What the sampler works with on the device: keys that order tokens, and weights that are whole numbers. Every operation
// on floats is a single rounded one, in the order of `cpu/passes.rs`: so a weight has the same bits on every device.
#pragma once
#include "prims.cuh"

constexpr uint64_t NO_CUTOFF = ~0ull;

// The tokens of a row that are still in question, and how a logit becomes a weight.
struct TokenRow {
    const float* logits;
    int size;
    float largest, inverse_temperature;
    float threshold;  // tokens below are out
    uint64_t cutoff;  // keys above are out
};

// Ascending in the order of tokens: largest logit first, then lowest id. 0 is no number's key.
__device__ __forceinline__ uint64_t token_key(float logit, int token) {
    const uint32_t bits = __float_as_uint(__fadd_rn(logit, 0.f));  // -0 becomes +0
    const uint32_t descending = bits >> 31 ? bits : ~(bits | 1u << 31);
    return (uint64_t)descending << 32 | (uint32_t)token;
}

__device__ __forceinline__ float exponent_of(const TokenRow& row, float logit) {
    return __fmul_rn(__fsub_rn(logit, row.largest), row.inverse_temperature);
}

// e^x for x <= 0, as `exp` in cpu/passes.rs: 2^n times the Taylor polynomial of e^r.
__device__ __forceinline__ float exp_of(float x) {
    const float round = 12582912.f, smallest = -33.f;
    x = x > smallest ? x : smallest;
    const float rounded = __fadd_rn(__fmul_rn(x, 1.44269504f), round), n = __fsub_rn(rounded, round);
    const float r = __fsub_rn(__fsub_rn(x, __fmul_rn(n, 355.f / 512.f)), __fmul_rn(n, -2.1219444e-4f));
    const float coefficients[7] = {1.f / 720.f, 1.f / 120.f, 1.f / 24.f, 1.f / 6.f, 0.5f, 1.f, 1.f};
    float sum = 1.f / 5040.f;
#pragma unroll
    for (int i = 0; i < 7; i++) sum = __fadd_rn(__fmul_rn(sum, r), coefficients[i]);
    return __fmul_rn(sum, __uint_as_float((__float_as_uint(rounded) + 127u) << 23));
}

// round(2^44 · e^exponent): adding 2^8 to the float64 leaves 44 bits behind the point.
__device__ __forceinline__ uint64_t weight_of(const TokenRow& row, float logit) {
    const double point = 256.0, sum = __dadd_rn((double)exp_of(exponent_of(row, logit)), point);
    return (uint64_t)__double_as_longlong(sum) - (uint64_t)__double_as_longlong(point);
}

// The bucket of a logit, in the order of tokens: round(-4 · exponent), or the last.
constexpr int NUM_BUCKETS = 128;
__device__ __forceinline__ int bucket_of(const TokenRow& row, float logit) {
    float depth = __fmul_rn(exponent_of(row, logit), -4.f);
    depth = depth < (float)(NUM_BUCKETS - 1) ? depth : (float)(NUM_BUCKETS - 1);
    return (int)(__float_as_uint(__fadd_rn(depth, 8388608.f)) - __float_as_uint(8388608.f));
}

__device__ __forceinline__ bool is_kept(const TokenRow& row, float logit, int token) {
    return logit >= row.threshold && logit > -INFINITY && token_key(logit, token) <= row.cutoff;
}

__device__ __forceinline__ uint64_t kept_weight(const TokenRow& row, int token) {
    const float logit = row.logits[token];
    return is_kept(row, logit, token) ? weight_of(row, logit) : 0;
}

// Philox4x32-10 (Salmon et al., SC 2011): 64 bits for one decision, as `philox.rs`.
__device__ __forceinline__ uint64_t random_bits(uint64_t seed, uint32_t position) {
    uint32_t counter[4] = {position, 0, 0, 0}, key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < 10; round++) {
        const uint64_t first = (uint64_t)0xD2511F53u * counter[0], second = (uint64_t)0xCD9E8D57u * counter[2];
        const uint32_t next[4] = {(uint32_t)(second >> 32) ^ counter[1] ^ key[0], (uint32_t)second,
                                  (uint32_t)(first >> 32) ^ counter[3] ^ key[1], (uint32_t)first};
        for (int i = 0; i < 4; i++) counter[i] = next[i];
        key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
    }
    return (uint64_t)counter[0] << 32 | counter[1];
}
