// Codes of quantized weights in device memory, and how a lane turns them into an operand of mma.sync.
//
// A block has 16 features x 64 weights, cut into bit planes (`device_layout.rs` writes them). Step s of a block is 16
// weights; lane 4g + c has of it the weights 16s + 4c .. + 4 of the features g and g + 8, as four pairs: pair i has the
// feature g + 8 · (i % 2) and the weights 2 · (i / 2) and the next. That is operand A of mma.m16n8k16 when x is permuted
// the same way (`load_x`), and one vector load a plane for all four steps.
//
// Codes become bf16 without a rounding: 128 + code is exact, and so is the sum with a whole number.
#pragma once
#include "prims.cuh"

constexpr int BLOCK_WEIGHTS = 64;
constexpr int BLOCK_STEPS = 4;

// Two bf16 at once: what they are added to is exact here.
constexpr uint32_t BF16_128 = 0x43004300u;
__device__ __forceinline__ constexpr uint32_t minus_whole(int x) {  // of 128 <= x < 256, both halves
    return 0xC300C300u + (uint32_t)(x - 128) * 0x00010001u;
}

// Bits LOW.. of the codes of a block. BITS is 1, 2, 4 or 8.
template <int BITS>
struct Plane {
    static constexpr int BYTES = 128 * BITS;
    uint32_t word[BITS];

    __device__ __forceinline__ void load(const uint8_t* plane, int lane) {
        const uint32_t* from = (const uint32_t*)plane + lane * BITS;
        if constexpr (BITS >= 4) {
#pragma unroll
            for (int i = 0; i < BITS; i += 4) {
                const uint4 words = ld_stream(from + i);
                word[i] = words.x, word[i + 1] = words.y, word[i + 2] = words.z, word[i + 3] = words.w;
            }
        } else if constexpr (BITS == 2) {
            const uint2 words = *(const uint2*)from;
            word[0] = words.x, word[1] = words.y;
        } else {
            word[0] = *from;
        }
    }

    // The bits of pair `pair` in the two halves of a word.
    __device__ __forceinline__ uint32_t bits(int step, int pair) const {
        if constexpr (BITS == 8) return word[2 * step + pair / 2] >> (8 * (pair % 2)) & 0x00FF00FFu;
        else return word[step * BITS / 4] >> (BITS * (step % (4 / BITS) * 4 + pair)) & ((1u << BITS) - 1) * 0x00010001u;
    }
};

// Codes of LOW + HIGH bits below 128; a code means code - OFFSET.
template <int LOW, int HIGH, int OFFSET>
struct PlainCodes {
    static constexpr int BYTES = 128 * (LOW + HIGH);
    Plane<LOW> low;
    Plane<HIGH ? HIGH : 1> high;

    __device__ __forceinline__ void load(const uint8_t* block, int lane) {
        low.load(block, lane);
        if constexpr (HIGH > 0) high.load(block + Plane<LOW>::BYTES, lane);
    }
    __device__ __forceinline__ void operand(uint32_t (&a)[4], int step) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t code = low.bits(step, i);
            if constexpr (HIGH > 0) code |= high.bits(step, i) << LOW;
            a[i] = add_bf16x2(code | BF16_128, minus_whole(128 + OFFSET));
        }
    }
};

// Bytes that mean byte - 128: the seven low bits as above, then -256 or -128.
__device__ __forceinline__ uint32_t byte_values(uint32_t bytes) {
    return add_bf16x2((bytes & 0x007F007Fu) | BF16_128, 0xC380C380u ^ (bytes & 0x00800080u));
}

struct ByteCodes {
    static constexpr int BYTES = 128 * 8;
    Plane<8> plane;

    __device__ __forceinline__ void load(const uint8_t* block, int lane) { plane.load(block, lane); }
    __device__ __forceinline__ void operand(uint32_t (&a)[4], int step) const {
#pragma unroll
        for (int i = 0; i < 4; i++) a[i] = byte_values(plane.bits(step, i));
    }
};

// Four bits that index a table of 16 bytes, each the entry + 128 (`Table::word(i)` has entries 4i .. 4i + 4).
template <class Table>
struct TableCodes {
    static constexpr int BYTES = 128 * 4;
    Plane<4> plane;

    __device__ __forceinline__ void load(const uint8_t* block, int lane) { plane.load(block, lane); }

    // The entries of four codes in the lower half of `codes`.
    __device__ __forceinline__ static uint32_t look_up(uint32_t codes) {
        const uint32_t place = codes & 0x7777u, upper = codes >> 1 & 0x4444u;
        const uint32_t first = __byte_perm(Table::word(0), Table::word(1), place);
        const uint32_t second = __byte_perm(Table::word(2), Table::word(3), place);
        return __byte_perm(first, second, 0x3210u | upper);
    }
    __device__ __forceinline__ void operand(uint32_t (&a)[4], int step) const {
        const uint32_t low = look_up(plane.word[step]), high = look_up(plane.word[step] >> 16);
#pragma unroll
        for (int i = 0; i < 4; i++) a[i] = byte_values(__byte_perm(low, high, i | (4u + i) << 8));
    }
};
