// TMA: two-dimensional boxes of a tensor into shared memory, swizzled. Written from the PTX rules, not yet compared
// with silicon.
#pragma once
#include <algorithm>

#include "copies.h"
#include "mbarrier.h"

// What cuTensorMapEncodeTiled of the stand-in driver fills in.
struct alignas(64) CUtensorMap {
    const uint8_t* base;
    uint32_t element_bytes, rank;
    uint64_t size[5], stride[5];
    uint32_t box[5];
    int swizzle;
    uint32_t unused;
};

namespace sim {

// Bits 4.. of an offset are mixed with its bits 7.., as many as the span (32, 64 or 128 bytes) has chunks of 16 bytes.
inline uint32_t swizzled(uint32_t offset, int span) {
    uint32_t chunks = span == 128 ? 7 : span == 64 ? 3 : span == 32 ? 1 : 0;
    return offset ^ ((offset >> 7 & chunks) << 4);
}

inline bool run_load(Block& block) {
    if (block.loads.empty()) return false;
    TmaLoad load = std::move(block.loads.front());
    block.loads.erase(block.loads.begin());
    for (const Copy& row : load.rows) perform(row);
    mbarrier_complete(load.mbarrier, load.bytes);
    return true;
}

// 16 bytes of the box; what lies outside the tensor is zero.
inline Copy box_chunk(const CUtensorMap& map, int x, int y, uint32_t byte, void* to) {
    uint64_t first = x + byte / map.element_bytes;
    bool inside = y >= 0 && (uint64_t)y < map.size[1] && first < map.size[0];
    uint32_t bytes = inside ? (uint32_t)std::min<uint64_t>(16, (map.size[0] - first) * map.element_bytes) : 0;
    const uint8_t* from = inside ? map.base + (uint64_t)y * map.stride[1] + first * map.element_bytes : nullptr;
    return Copy{to, from, bytes, 16 - bytes};
}

inline void tma_load_2d(void* to, const CUtensorMap* map, uint64_t* mbarrier, int x, int y) {
    Block& here = block();
    uint32_t start = shared_offset(to), row_bytes = map->box[0] * map->element_bytes;
    if (start % 128) fail("TMA: the destination is not aligned to 128 bytes");
    if (map->swizzle && row_bytes > (uint32_t)map->swizzle) fail("TMA: the box is wider than the swizzle's span");
    TmaLoad load{{}, mbarrier, row_bytes * map->box[1]};
    for (uint32_t row = 0; row < map->box[1]; row++)
        for (uint32_t byte = 0; byte < row_bytes; byte += 16) {
            void* chunk = here.shared + swizzled(start + row * row_bytes + byte, map->swizzle);
            load.rows.push_back(box_chunk(*map, x, y + (int)row, byte, chunk));
        }
    here.loads.push_back(std::move(load));
    if (!settings().lazy) run_load(here);
}

}  // namespace sim
