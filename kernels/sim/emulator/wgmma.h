// wgmma: products of a warpgroup that read shared memory through descriptors and take effect at a wait. Written from the
// PTX rules, not yet compared with silicon.
#pragma once
#include "matrix.h"
#include "tma.h"

namespace sim {

enum WgmmaInstruction { WGMMA = 1, WGMMA_COMMIT, WGMMA_WAIT };

template <class Work>
inline void meet_in_warpgroup(int instruction, void* mine, Work work, const char* where) {
    Warpgroup& group = block().warpgroups[current->linear / 128];
    uint32_t generation = group.generation;
    if (group.arrived && group.instruction != instruction) fail("warps of a warpgroup are in different instructions");
    group.instruction = instruction;
    group.threads[current->linear % 128] = mine;
    if (++group.arrived == 128) {
        work(group);
        group.arrived = 0;
        group.generation++;
    } else {
        wait_while(&group.generation, ~0u, generation, where);
    }
}

// Element (row, k) of a K-major tile in the 128-byte swizzle.
inline float descriptor_element(Block& block, uint64_t descriptor, int row, int k) {
    uint32_t start = (uint32_t)(descriptor & 0x3FFF) << 4, group_stride = (uint32_t)(descriptor >> 32 & 0x3FFF) << 4;
    if (descriptor >> 62 != 1) fail("wgmma: only the 128-byte swizzle is emulated");
    uint32_t at = swizzled(start + row / 8 * group_stride + row % 8 * 128 + k * 2, 128);
    if (at + 2 > block.shared_bytes) fail("wgmma: a descriptor points outside shared memory");
    uint16_t bits;
    memcpy(&bits, block.shared + at, 2);
    return __uint_as_float((uint32_t)bits << 16);
}

// Register i of thread t holds element (row, column) of the accumulator.
inline int accumulator_row(int t, int i) { return t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2); }
inline int accumulator_column(int t, int i) { return i / 4 * 8 + t % 4 * 2 + i % 2; }

// d[64 x n] (+)= a[64 x 16] · b[n x 16]ᵀ
inline void run_wgmma(Block& block, const WgmmaOp& op) {
    static thread_local float a[64][16], b[16][256], d[64][256];
    for (int row = 0; row < 64; row++)
        for (int k = 0; k < 16; k++) a[row][k] = descriptor_element(block, op.a, row, k);
    for (int column = 0; column < op.columns; column++)
        for (int k = 0; k < 16; k++) b[k][column] = descriptor_element(block, op.b, column, k);
    for (int t = 0; t < 128; t++)
        for (int i = 0; i < op.columns / 2; i++)
            d[accumulator_row(t, i)][accumulator_column(t, i)] = op.keeps ? op.d[t][i] : 0.0f;
    for (int row = 0; row < 64; row++)
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < op.columns; column++) d[row][column] += a[row][k] * b[k][column];
    for (int t = 0; t < 128; t++)
        for (int i = 0; i < op.columns / 2; i++) op.d[t][i] = d[accumulator_row(t, i)][accumulator_column(t, i)];
}

struct WgmmaThread {
    float* d;
    uint64_t a, b;
};

inline void wgmma(float* d, int columns, uint64_t a, uint64_t b, bool keeps) {
    WgmmaThread mine{d, a, b};
    meet_in_warpgroup(WGMMA, &mine, [=](Warpgroup& group) {
        WgmmaOp op{a, b, {}, columns, keeps};
        for (int t = 0; t < 128; t++) {
            auto* thread = (WgmmaThread*)group.threads[t];
            if (thread->a != a || thread->b != b) fail("wgmma: descriptors differ within the warpgroup");
            op.d[t] = thread->d;
        }
        group.open.push_back(op);
    }, "wgmma");
}

inline void wgmma_commit() {
    meet_in_warpgroup(WGMMA_COMMIT, nullptr, [](Warpgroup& group) {
        group.groups.push_back(std::move(group.open));
        group.open.clear();
    }, "wgmma.commit_group");
}

inline void wgmma_wait(int groups_left) {
    Block& here = block();
    meet_in_warpgroup(WGMMA_WAIT, nullptr, [&here, groups_left](Warpgroup& group) {
        while ((int)group.groups.size() > groups_left) {
            for (const WgmmaOp& op : group.groups.front()) run_wgmma(here, op);
            group.groups.erase(group.groups.begin());
        }
    }, "wgmma.wait_group");
}

}  // namespace sim
