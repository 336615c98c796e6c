// N numbers at a time between memory and registers: 8, 4 or 2 of bf16 where rows are aligned to as many, 1 elsewhere.
#pragma once
#include "prims.cuh"

template <int N>
__device__ __forceinline__ void load_numbers(float (&x)[N], const bf16* p) {
    if constexpr (N == 8) {
        uint4 words = *(const uint4*)p;
        uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[2 * i] = lo2f(pairs[i]);
            x[2 * i + 1] = hi2f(pairs[i]);
        }
    } else if constexpr (N == 4) {
        uint2 words = *(const uint2*)p;
        x[0] = lo2f(words.x), x[1] = hi2f(words.x), x[2] = lo2f(words.y), x[3] = hi2f(words.y);
    } else if constexpr (N == 2) {
        uint32_t pair = *(const uint32_t*)p;
        x[0] = lo2f(pair), x[1] = hi2f(pair);
    } else {
        x[0] = bf2f(*p);
    }
}

template <int N>
__device__ __forceinline__ void load_numbers(float (&x)[N], const float* p) {
    if constexpr (N == 8) {
        float4 low = ((const float4*)p)[0], high = ((const float4*)p)[1];
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
    } else if constexpr (N == 4) {
        float4 all = *(const float4*)p;
        x[0] = all.x, x[1] = all.y, x[2] = all.z, x[3] = all.w;
    } else if constexpr (N == 2) {
        float2 both = *(const float2*)p;
        x[0] = both.x, x[1] = both.y;
    } else {
        x[0] = *p;
    }
}

template <int N>
__device__ __forceinline__ void store_numbers(bf16* p, const float (&x)[N]) {
    if constexpr (N == 8) {
        uint4 words = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
        *(uint4*)p = words;
    } else if constexpr (N == 4) {
        *(uint2*)p = make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]));
    } else if constexpr (N == 2) {
        *(uint32_t*)p = pack_bf16(x[0], x[1]);
    } else {
        *p = f2bf(x[0]);
    }
}

template <int N>
__device__ __forceinline__ void store_numbers(float* p, const float (&x)[N]) {
    if constexpr (N == 8) {
        ((float4*)p)[0] = make_float4(x[0], x[1], x[2], x[3]);
        ((float4*)p)[1] = make_float4(x[4], x[5], x[6], x[7]);
    } else if constexpr (N == 4) {
        *(float4*)p = make_float4(x[0], x[1], x[2], x[3]);
    } else if constexpr (N == 2) {
        *(float2*)p = make_float2(x[0], x[1]);
    } else {
        *p = x[0];
    }
}

// The sum over all threads of the block, given to each; `partial` has a place for each warp. The order of additions
// depends on the block's size alone.
__device__ __forceinline__ float block_sum(float x, float* partial) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
    x = warp_sum(x);
    if (lane == 0) partial[warp] = x;
    __syncthreads();
    x = warp_sum(lane < warps ? partial[lane] : 0.0f);
    __syncthreads();  // the next sum may use the same places
    return x;
}
