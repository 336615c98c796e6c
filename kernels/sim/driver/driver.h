// What the stand-in driver, cuBLASLt and NCCL share: streams of operations that run when something waits for them.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "emulator.h"

#define API extern "C" __attribute__((visibility("default")))

using Result = int;
constexpr Result SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
                 INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900;

using Operation = std::function<void()>;

struct Context;

struct Stream {
    Context* context = nullptr;
    std::mutex mutex;
    // Held while operations run: whoever waits for the stream waits for those that another thread has taken.
    std::recursive_mutex running;
    std::vector<Operation> queue;
    bool capturing = false;
    std::vector<Operation> captured;
};

struct Context {
    int device = 0;
    Stream null_stream;
};

// A fault of a kernel: every later call of the process fails, as on a GPU.
inline std::atomic<Result> sticky_error{SUCCESS};
inline thread_local Context* current_context = nullptr;

// Streams that this thread records: meanwhile it may not allocate or wait.
inline thread_local int recording = 0;

int device_count();
Context& context_of(int device);
Stream& stream_of(void* handle);
void drain(Stream& stream);
void drain_context();
Result enqueue(void* stream, Operation operation);
size_t device_memory();
size_t used_memory();

// A number from the environment.
inline long setting(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text ? atol(text) : otherwise;
}
