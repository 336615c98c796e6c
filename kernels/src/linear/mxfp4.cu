// MXFP4: power of two · entry, groups of 32. Source: OCP Microscaling Formats 1.0.
#include "quantized.cuh"

// Doubled E2M1 numbers + 128.
struct E2m1Table {
    // 0 1 2 3, 4 6 8 12, and their negatives
    __device__ __forceinline__ static constexpr uint32_t word(int i) {
        return i == 0 ? 0x83828180u : i == 1 ? 0x8C888684u : i == 2 ? 0x7D7E7F80u : 0x74787A7Cu;
    }
};

LINEAR_KERNELS(mxfp4, TableCodes<E2m1Table>, ExponentScales);
