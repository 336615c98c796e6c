// E4M3 floats: a sign, 4 bits of exponent with bias 7, 3 bits of fraction, no infinities; as `src/float8.rs`. In whole
// numbers, for sm_80 has no instruction for them: the bits are those of the host on every architecture.
#pragma once
#include "prims.cuh"

struct e4m3 {
    uint8_t bits;
};

// Rounded to nearest even; beyond the largest number that one, with its sign. A NaN stays one.
__device__ __forceinline__ e4m3 f2e4m3(float x) {
    const uint32_t bits = __float_as_uint(x), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7FFFFFFFu;
    uint32_t code;
    if (magnitude > 0x7F800000u) code = 0x7F;
    else if (magnitude >= 0x43E00000u) code = 0x7E;  // 448
    else if (magnitude >= 0x3C800000u) code = ((magnitude + 0x7FFFFu + (magnitude >> 20 & 1u)) >> 20) - (120u << 3);
    else code = __float_as_uint(__fadd_rn(__uint_as_float(magnitude), 16384.f)) & 0xFFu;  // multiples of 2^-9
    return e4m3{(uint8_t)(sign | code)};
}

// Four numbers as two pairs of bf16, exactly: the fields move to their places, and a factor of 2^120 changes the bias and
// makes subnormal numbers right.
__device__ __forceinline__ void widen_e4m3(uint32_t (&pairs)[2], uint32_t codes) {
    constexpr uint32_t TWO_TO_120 = 0x7B807B80u;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t high = __byte_perm(codes, 0, i ? 0x3424 : 0x1404);  // each code in the upper byte of its half
        pairs[i] = mul_bf16x2((high & 0x80008000u) | (high >> 4 & 0x07F007F0u), TWO_TO_120);
        // Where all bits but the sign are set, the number is none.
        const uint32_t none = ((high & 0x7F007F00u) + 0x01000100u) & 0x80008000u;
        if (none) pairs[i] |= none - (none >> 15);
    }
}

// Sixteen.
__device__ __forceinline__ void widen_e4m3(uint4 (&out)[2], const uint4& codes) {
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t low[2], high[2];
        widen_e4m3(low, words[2 * i]);
        widen_e4m3(high, words[2 * i + 1]);
        out[i] = make_uint4(low[0], low[1], high[0], high[1]);
    }
}
