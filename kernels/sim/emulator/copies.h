// cp.async: copies into shared memory that a thread waits for by groups.
#pragma once
#include "block.h"

namespace sim {

inline void perform(const Copy& copy) {
    if (copy.bytes) memcpy(copy.to, copy.from, copy.bytes);
    if (copy.zeros) memset((char*)copy.to + copy.bytes, 0, copy.zeros);
}

// Offset of an address in the block's dynamic shared memory.
inline uint32_t shared_offset(const void* p) {
    size_t offset = (const unsigned char*)p - block().shared;
    if (offset >= block().shared_bytes) fail("an address is not in dynamic shared memory");
    return (uint32_t)offset;
}

// `bytes` of `total` are read, the rest is zero.
inline void cp_async(void* to, const void* from, int bytes, int total) {
    if ((uintptr_t)to % total || (bytes && (uintptr_t)from % total)) fail("cp.async: misaligned");
    Copy copy{to, from, (uint32_t)bytes, (uint32_t)(total - bytes)};
    if (settings().lazy) current->open.push_back(copy);
    else perform(copy);
}

inline void cp_async_commit() {
    current->groups.push_back(std::move(current->open));
    current->open.clear();
}

inline void cp_async_wait(int groups_left) {
    auto& groups = current->groups;
    while ((int)groups.size() > groups_left) {
        for (const Copy& copy : groups.front()) perform(copy);
        groups.erase(groups.begin());
    }
}

}  // namespace sim
