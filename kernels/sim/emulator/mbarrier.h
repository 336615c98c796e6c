// mbarrier: a barrier in shared memory that also counts bytes that asynchronous copies have yet to bring.
#pragma once
#include "block.h"

namespace sim {

// 8 bytes. low: phase (bit 0), arrivals still pending (16..31). high: bytes pending (24 bits, signed), count (24..31).
struct MbarrierWord {
    uint32_t low, high;
};

inline void mbarrier_step(MbarrierWord* word) {
    int pending = word->low >> 16, bytes = (int)(word->high << 8) >> 8;
    if (pending == 0 && bytes == 0) word->low = ((word->low & 1) ^ 1) | (word->high >> 24) << 16;
}

inline void mbarrier_init(uint64_t* barrier, int count) {
    auto* word = (MbarrierWord*)barrier;
    word->low = (uint32_t)count << 16;
    word->high = (uint32_t)count << 24;
}

inline void mbarrier_add_bytes(MbarrierWord* word, uint32_t bytes) {
    word->high = (word->high & 0xFF000000u) | ((word->high + bytes) & 0xFFFFFFu);
}

// Arrives once, and expects `bytes` more.
inline void mbarrier_arrive(uint64_t* barrier, uint32_t bytes) {
    auto* word = (MbarrierWord*)barrier;
    if (!(word->low >> 16)) fail("mbarrier: more arrivals than its count");
    mbarrier_add_bytes(word, bytes);
    word->low -= 1u << 16;
    mbarrier_step(word);
    jitter();
}

inline void mbarrier_complete(uint64_t* barrier, uint32_t bytes) {
    auto* word = (MbarrierWord*)barrier;
    mbarrier_add_bytes(word, 0u - bytes);
    mbarrier_step(word);
}

inline void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
    wait_while(&((MbarrierWord*)barrier)->low, 1u, parity & 1u, "mbarrier wait");
}

}  // namespace sim
