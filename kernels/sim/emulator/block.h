// The state of a block that runs: its threads, what they wait for, and what is in flight.
#pragma once
#include <atomic>
#include <cstdio>
#include <vector>

#include "fiber.h"
#include "settings.h"
#include "types.h"

namespace sim {

constexpr size_t MAX_SHARED_BYTES = 232448;  // 227 KiB: what a Hopper block can opt in to
constexpr int MAX_THREADS = 1024;
constexpr int MAX_WARPS = MAX_THREADS / 32;

// Bytes on their way into shared memory; `zeros` more follow as zeros.
struct Copy {
    void* to;
    const void* from;
    uint32_t bytes, zeros;
};

struct Block;

// One thread of a kernel.
struct Fiber {
    void* stack;
    Block* block;
    uint3 index;
    int linear, warp, lane;
    // It waits while (*word & mask) == value.
    const volatile uint32_t* word;
    uint32_t mask, value;
    const char* where;
    bool done, spun;
    std::vector<Copy> open;                 // cp.async since the last commit
    std::vector<std::vector<Copy>> groups;  // committed
};

// Lanes of one mask that meet in one instruction.
struct Meeting {
    unsigned mask, arrived;
    uint32_t generation;
    int instruction;
    void* lanes[32];
};

struct WgmmaOp {
    uint64_t a, b;
    float* d[128];
    int columns;
    bool keeps;
};

// The 128 threads that issue wgmma together.
struct Warpgroup {
    uint32_t generation;
    int arrived, instruction;
    void* threads[128];
    std::vector<WgmmaOp> open;
    std::vector<std::vector<WgmmaOp>> groups;
};

struct Barrier {
    uint32_t generation;
    int arrived, count;
};

// What __syncthreads_count has counted; `generation` is the barrier's plus one.
struct Vote {
    uint32_t generation;
    int count;
};

struct TmaLoad {
    std::vector<Copy> rows;
    uint64_t* mbarrier;
    uint32_t bytes;
};

struct Block {
    dim3 grid, size;
    uint3 index;
    int threads, live;
    Fiber* fibers;
    unsigned char* stacks;
    void* scheduler_stack;
    unsigned char* shared;
    size_t shared_bytes;
    void (*body)(void**);
    void** arguments;
    bool cooperative, failed;
    uint64_t random;
    Barrier barriers[16];
    std::vector<Meeting> meetings[MAX_WARPS];
    Warpgroup warpgroups[MAX_THREADS / 128];
    std::vector<TmaLoad> loads;
    Vote votes[2];  // by the lowest bit of the barrier's generation
};

inline thread_local Fiber* current = nullptr;

inline Block& block() { return *current->block; }

inline void yield_to_scheduler() { quire_sim_switch(&current->stack, block().scheduler_stack); }

// The message of the first failure of a launch goes to the host as an error of that launch.
inline std::atomic<bool> launch_failed{false};

inline void report(const Block& at, int thread, const char* what) {
    launch_failed = true;
    fprintf(stderr, "emulator: %s (block %u,%u,%u thread %d)\n", what, at.index.x, at.index.y, at.index.z, thread);
}

// The kernel did what a GPU would fault on, or leave undefined: the block ends here.
[[noreturn]] inline void fail(const char* what) {
    report(block(), current->linear, what);
    block().failed = true;
    for (;;) yield_to_scheduler();
}

inline void wait_while(const volatile uint32_t* word, uint32_t mask, uint32_t value, const char* where) {
    Fiber& fiber = *current;
    while ((*word & mask) == value) {
        fiber.word = word;
        fiber.mask = mask;
        fiber.value = value;
        fiber.where = where;
        yield_to_scheduler();
    }
}

// Lets others run: for loops that poll memory.
inline void spin() {
    current->spun = true;
    yield_to_scheduler();
}

// In random order, others may run here.
inline void jitter() {
    if (settings().order != RANDOM || next_random(block().random) % 2) return;
    for (int turns = next_random(block().random) % 4; turns >= 0; turns--) spin();
}

}  // namespace sim

#define threadIdx (sim::current->index)
#define blockIdx (sim::current->block->index)
#define blockDim (sim::current->block->size)
#define gridDim (sim::current->block->grid)
#define EXTERN_SHARED(name) unsigned char* name = sim::block().shared
#define SIM_TEXT2(x) #x
#define SIM_TEXT(x) SIM_TEXT2(x)
#define SIM_WHERE(what) what " at " __FILE__ ":" SIM_TEXT(__LINE__)
