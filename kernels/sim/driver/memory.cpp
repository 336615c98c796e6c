// Device memory is memory of the host: full of numbers that are none when it is taken, of garbage when it is given back.
#include <algorithm>
#include <cstdlib>

#include "driver.h"

namespace {

std::mutex mutex;
// Never destroyed: a thread may still give memory back when the process ends.
auto& allocations = *new std::map<uintptr_t, size_t>;
auto& pinned = *new std::map<uintptr_t, size_t>;
size_t used = 0;

bool is_pinned(const void* p) {
    std::lock_guard<std::mutex> lock(mutex);
    auto after = pinned.upper_bound((uintptr_t)p);
    if (after == pinned.begin()) return false;
    --after;
    return (uintptr_t)p < after->first + after->second;
}

// Whether the range lies in one allocation: copies beyond it are refused, as by the driver.
bool is_device_memory(uintptr_t p, size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    auto after = allocations.upper_bound(p);
    if (after == allocations.begin()) return bytes == 0;
    --after;
    return p + bytes <= after->first + after->second;
}

}  // namespace

size_t used_memory() {
    std::lock_guard<std::mutex> lock(mutex);
    return used;
}

API Result cuMemGetInfo_v2(size_t* free, size_t* total) {
    *total = device_memory();
    *free = *total - std::min(*total, used_memory());
    return SUCCESS;
}

API Result cuMemAlloc_v2(uintptr_t* p, size_t bytes) {
    if (!current_context) return INVALID_CONTEXT;
    if (recording) return CAPTURE_UNSUPPORTED;
    if (bytes == 0) return INVALID_VALUE;
    std::lock_guard<std::mutex> lock(mutex);
    if (used + bytes > device_memory()) return OUT_OF_MEMORY;
    void* memory = aligned_alloc(256, (bytes + 511) / 256 * 256);
    if (!memory) return OUT_OF_MEMORY;
    memset(memory, 0xFF, bytes);
    *p = (uintptr_t)memory;
    allocations[*p] = bytes;
    used += bytes;
    return SUCCESS;
}

// The driver waits for everything that is under way on this GPU.
API Result cuMemFree_v2(uintptr_t p) {
    if (recording) return CAPTURE_UNSUPPORTED;
    drain_context();
    std::lock_guard<std::mutex> lock(mutex);
    auto found = allocations.find(p);
    if (found == allocations.end()) return p ? INVALID_VALUE : SUCCESS;
    memset((void*)p, 0xFE, found->second);
    used -= found->second;
    free((void*)p);
    allocations.erase(found);
    return SUCCESS;
}

API Result cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    if (recording) return CAPTURE_UNSUPPORTED;
    *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*p) return OUT_OF_MEMORY;
    memset(*p, 0xFD, bytes);
    std::lock_guard<std::mutex> lock(mutex);
    pinned[(uintptr_t)*p] = bytes;
    return SUCCESS;
}

API Result cuMemFreeHost(void* p) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!pinned.erase((uintptr_t)p)) return INVALID_VALUE;
    free(p);
    return SUCCESS;
}

// Pinned memory is read when the copy runs. From other memory the bytes have been taken when the call returns.
API Result cuMemcpyHtoDAsync_v2(uintptr_t to, const void* from, size_t bytes, void* stream) {
    if (!is_device_memory(to, bytes)) return INVALID_VALUE;
    if (is_pinned(from)) return enqueue(stream, [=] { memcpy((void*)to, from, bytes); });
    if (stream_of(stream).capturing) return CAPTURE_UNSUPPORTED;
    auto staged = std::make_shared<std::vector<char>>((const char*)from, (const char*)from + bytes);
    return enqueue(stream, [=] { memcpy((void*)to, staged->data(), bytes); });
}

// Into memory that is not pinned the copy is done when the call returns.
API Result cuMemcpyDtoHAsync_v2(void* to, uintptr_t from, size_t bytes, void* stream) {
    if (!is_device_memory(from, bytes)) return INVALID_VALUE;
    if (is_pinned(to)) return enqueue(stream, [=] { memcpy(to, (void*)from, bytes); });
    if (stream_of(stream).capturing) return CAPTURE_UNSUPPORTED;
    Result result = enqueue(stream, [=] { memcpy(to, (void*)from, bytes); });
    drain(stream_of(stream));
    return result ? result : (Result)sticky_error;
}

API Result cuMemcpyDtoDAsync_v2(uintptr_t to, uintptr_t from, size_t bytes, void* stream) {
    if (!is_device_memory(to, bytes) || !is_device_memory(from, bytes)) return INVALID_VALUE;
    return enqueue(stream, [=] { memmove((void*)to, (void*)from, bytes); });
}

API Result cuMemsetD8Async(uintptr_t to, unsigned char value, size_t bytes, void* stream) {
    if (!is_device_memory(to, bytes)) return INVALID_VALUE;
    return enqueue(stream, [=] { memset((void*)to, value, bytes); });
}

// `width` numbers of each of `height` rows that lie `pitch` bytes apart.
API Result cuMemsetD2D32Async(uintptr_t to, size_t pitch, unsigned value, size_t width, size_t height, void* stream) {
    if (height && !is_device_memory(to, pitch * (height - 1) + 4 * width)) return INVALID_VALUE;
    return enqueue(stream, [=] {
        for (size_t row = 0; row < height; row++) {
            auto* numbers = (uint32_t*)(to + row * pitch);
            std::fill(numbers, numbers + width, value);
        }
    });
}
