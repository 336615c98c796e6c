// The table of IQ4_NL and IQ4_XS: entries + 128.
#pragma once
#include "quantized.cuh"

struct Iq4NlTable {
    // -127 -104 -83 -65, -49 -35 -22 -10, 1 13 25 38, 53 69 89 113
    __device__ __forceinline__ static constexpr uint32_t word(int i) {
        return i == 0 ? 0x3F2D1801u : i == 1 ? 0x766A5D4Fu : i == 2 ? 0xA6998D81u : 0xF1D9C5B5u;
    }
};
