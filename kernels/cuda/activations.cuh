// The activations of feed-forward layers, each of a gate and what it multiplies; the last two numbers are `ClampedSwiglu`'s.
#pragma once
#include "prims.cuh"

struct Silu {
    static __device__ __forceinline__ float of(float gate, float up, float, float) { return gate / (1.0f + __expf(-gate)) * up; }
};

struct Gelu {
    static __device__ __forceinline__ float of(float gate, float up, float, float) {
        return gate * 0.5f * erfcf(-0.70710678f * gate) * up;
    }
};

// As (1 + tanh y) / 2 = 1 / (1 + e^-2y), which does not cancel for negative gates.
struct GeluTanh {
    static __device__ __forceinline__ float of(float gate, float up, float, float) {
        float cubic = fmaf(0.044715f * gate * gate, gate, gate);
        return gate / (1.0f + __expf(-1.5957691216f * cubic)) * up;
    }
};

struct ClampedSwiglu {
    static __device__ __forceinline__ float of(float gate, float up, float alpha, float limit) {
        gate = fminf(gate, limit);
        up = fminf(fmaxf(up, -limit), limit) + 1.0f;
        return gate / (1.0f + __expf(-alpha * gate)) * up;
    }
};
