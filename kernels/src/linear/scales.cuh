// Scales of quantized weights in device memory: of 16 features x 256 weights one record, in which a feature has first its
// `BYTES` and, behind those of all features, its `HEAD` bytes (`device_layout.rs` writes them). A weight is
// scale · code (+ minimum, where HAS_MINIMUM); `scale(g)` and `minimum(g)` are of group g of GROUP weights.
#pragma once
#include "prims.cuh"

constexpr int SCALE_WEIGHTS = 256;
constexpr int TILE_FEATURES = 16;

// Byte `index` of a vector in registers; the index is a constant once loops are unrolled.
template <int N>
__device__ __forceinline__ uint32_t byte_of(const uint32_t (&words)[N], int index) {
    return words[index / 4] >> (8 * (index % 4)) & 255u;
}
template <int N>
__device__ __forceinline__ float half_of(const uint32_t (&words)[N], int index) {
    return half2f((uint16_t)(words[index / 2] >> (16 * (index % 2))));
}
__device__ __forceinline__ float signed_byte(uint32_t byte) { return (float)(int8_t)byte; }

// What all kinds share: loads of a feature's fields.
template <int FIELD_BYTES, int HEAD_BYTES>
struct ScaleRecord {
    static constexpr int BYTES = TILE_FEATURES * (FIELD_BYTES + HEAD_BYTES);
    uint32_t field[FIELD_BYTES / 4];
    uint32_t head;

    __device__ __forceinline__ void load(const uint8_t* record, int feature) {
        const uint8_t* from = record + feature * FIELD_BYTES;
        if constexpr (FIELD_BYTES % 16 == 0) {
#pragma unroll
            for (int i = 0; i < FIELD_BYTES / 4; i += 4) {
                const uint4 words = *(const uint4*)(from + 4 * i);
                field[i] = words.x, field[i + 1] = words.y, field[i + 2] = words.z, field[i + 3] = words.w;
            }
        } else {
            const uint2 words = *(const uint2*)from;
            field[0] = words.x, field[1] = words.y;
        }
        if constexpr (HEAD_BYTES == 4) head = *(const uint32_t*)(record + TILE_FEATURES * FIELD_BYTES + feature * 4);
        if constexpr (HEAD_BYTES == 2) head = *(const uint16_t*)(record + TILE_FEATURES * FIELD_BYTES + feature * 2);
    }
    __device__ __forceinline__ float first_head() const { return half2f((uint16_t)head); }
    __device__ __forceinline__ float second_head() const { return half2f((uint16_t)(head >> 16)); }
};

// d of every 32 weights.
struct HalfScales : ScaleRecord<16, 0> {
    static constexpr int GROUP = 32;
    static constexpr bool HAS_MINIMUM = false;
    __device__ __forceinline__ float scale(int group) const { return half_of(field, group); }
    __device__ __forceinline__ float minimum(int) const { return 0.f; }
};

// d of every 32 weights, then m of every 32.
struct HalfAndMinimumScales : ScaleRecord<32, 0> {
    static constexpr int GROUP = 32;
    static constexpr bool HAS_MINIMUM = true;
    __device__ __forceinline__ float scale(int group) const { return half_of(field, group); }
    __device__ __forceinline__ float minimum(int group) const { return half_of(field, 8 + group); }
};

// d · signed byte; GROUPS bytes.
template <int GROUPS>
struct SignedScales : ScaleRecord<GROUPS, 2> {
    static constexpr int GROUP = SCALE_WEIGHTS / GROUPS;
    static constexpr bool HAS_MINIMUM = false;
    __device__ __forceinline__ float scale(int group) const {
        return __fmul_rn(this->first_head(), signed_byte(byte_of(this->field, group)));
    }
    __device__ __forceinline__ float minimum(int) const { return 0.f; }
};

// d · byte, -m · byte: 8 bytes and 8 bytes.
struct UnsignedAndMinimumScales : ScaleRecord<16, 4> {
    static constexpr int GROUP = 32;
    static constexpr bool HAS_MINIMUM = true;
    __device__ __forceinline__ float scale(int group) const { return __fmul_rn(first_head(), (float)byte_of(field, group)); }
    __device__ __forceinline__ float minimum(int group) const { return -__fmul_rn(second_head(), (float)byte_of(field, 8 + group)); }
};

// d · lower half of a byte, -m · upper half: 16 bytes.
struct NibblesAndMinimumScales : ScaleRecord<16, 4> {
    static constexpr int GROUP = 16;
    static constexpr bool HAS_MINIMUM = true;
    __device__ __forceinline__ float scale(int group) const { return __fmul_rn(first_head(), (float)(byte_of(field, group) & 15u)); }
    __device__ __forceinline__ float minimum(int group) const { return -__fmul_rn(second_head(), (float)(byte_of(field, group) >> 4)); }
};

// 2^(e - 128): the table has doubled entries.
struct ExponentScales : ScaleRecord<8, 0> {
    static constexpr int GROUP = 32;
    static constexpr bool HAS_MINIMUM = false;
    __device__ __forceinline__ float scale(int group) const {
        const uint32_t e = byte_of(field, group);
        return __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
    }
    __device__ __forceinline__ float minimum(int) const { return 0.f; }
};
