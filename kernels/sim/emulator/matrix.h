// ldmatrix and mma.sync: which lane holds which element is as the PTX manual draws it.
#pragma once
#include "intrinsics.h"
#include "warp.h"

namespace sim {

inline float bf16_at(uint32_t pair, int which) { return __uint_as_float((pair >> 16 * which & 0xFFFF) << 16); }

// 8x8 matrices of 16-bit elements that were read, and the passes that bank conflicts added.
struct LdmatrixCounts {
    std::atomic<long> matrices{0}, extra_passes{0};
};
inline LdmatrixCounts& ldmatrix_counts() {
    static LdmatrixCounts counts;
    return counts;
}

struct LdmatrixLane {
    uint32_t* registers;
    const uint8_t* row;
};

// Eight rows of 16 bytes are free of conflicts when they cover all 32 banks.
inline void count_conflicts(void** lanes, int matrix) {
    int hits[8] = {}, worst = 0;
    for (int row = 0; row < 8; row++) {
        auto address = (uintptr_t)((LdmatrixLane*)lanes[8 * matrix + row])->row;
        int& count = hits[address / 16 % 8];
        if (++count > worst) worst = count;
    }
    ldmatrix_counts().matrices++;
    ldmatrix_counts().extra_passes += worst - 1;
}

inline uint32_t ldmatrix_element(void** lanes, int matrix, int lane, bool transposed) {
    auto row = [&](int i) { return ((LdmatrixLane*)lanes[8 * matrix + i])->row; };
    uint32_t value;
    if (!transposed) {
        memcpy(&value, row(lane / 4) + 4 * (lane % 4), 4);
        return value;
    }
    uint16_t low, high;
    memcpy(&low, row(2 * (lane % 4)) + 2 * (lane / 4), 2);
    memcpy(&high, row(2 * (lane % 4) + 1) + 2 * (lane / 4), 2);
    return (uint32_t)high << 16 | low;
}

inline void ldmatrix(uint32_t* registers, const void* row, int matrices, bool transposed) {
    if ((uintptr_t)row % 16) fail("ldmatrix: a misaligned row");
    LdmatrixLane mine{registers, (const uint8_t*)row};
    meet(~0u, LDMATRIX + matrices + 8 * transposed, &mine, [=](void** lanes) {
        for (int matrix = 0; matrix < matrices; matrix++) {
            count_conflicts(lanes, matrix);
            for (int lane = 0; lane < 32; lane++)
                ((LdmatrixLane*)lanes[lane])->registers[matrix] = ldmatrix_element(lanes, matrix, lane, transposed);
        }
    }, "ldmatrix");
}

struct MmaLane {
    float* d;
    const uint32_t *a, *b;
};

// d[16 x 8] += a[16 x 16] · b[16 x 8], bf16 into f32.
inline void mma_16x8x16(void** lanes) {
    float a[16][16], b[16][8], d[16][8];
    for (int lane = 0; lane < 32; lane++) {
        auto* from = (MmaLane*)lanes[lane];
        int row = lane / 4, column = lane % 4 * 2;
        for (int i = 0; i < 2; i++) {
            a[row][column + i] = bf16_at(from->a[0], i);
            a[row + 8][column + i] = bf16_at(from->a[1], i);
            a[row][column + 8 + i] = bf16_at(from->a[2], i);
            a[row + 8][column + 8 + i] = bf16_at(from->a[3], i);
            b[column + i][row] = bf16_at(from->b[0], i);
            b[column + 8 + i][row] = bf16_at(from->b[1], i);
            d[row][column + i] = from->d[i];
            d[row + 8][column + i] = from->d[2 + i];
        }
    }
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++) d[i][j] += a[i][k] * b[k][j];
    for (int lane = 0; lane < 32; lane++) {
        auto* to = (MmaLane*)lanes[lane];
        int row = lane / 4, column = lane % 4 * 2;
        for (int i = 0; i < 2; i++) {
            to->d[i] = d[row][column + i];
            to->d[2 + i] = d[row + 8][column + i];
        }
    }
}

inline void mma_bf16(float* d, const uint32_t* a, const uint32_t* b) {
    MmaLane mine{d, a, b};
    meet(~0u, MMA, &mine, mma_16x8x16, "mma.sync.m16n8k16");
}

}  // namespace sim
