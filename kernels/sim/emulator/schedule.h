// Runs the threads of one block in turn until all are done, or none can go on.
#pragma once
#include <algorithm>
#include <chrono>
#include <thread>

#include "barriers.h"
#include "tma.h"

namespace sim {

inline void fiber_main() {
    Fiber& fiber = *current;
    Block& block = *fiber.block;
    block.body(block.arguments);
    fiber.done = true;
    block.live--;
    leave_barriers(block);
    for (;;) yield_to_scheduler();
}

inline void resume(Block& block, Fiber& fiber) {
    current = &fiber;
    fiber.word = nullptr;
    fiber.spun = false;
    quire_sim_switch(&block.scheduler_stack, fiber.stack);
    current = nullptr;
}

inline void reset_fibers(Block& block) {
    for (int i = 0; i < block.threads; i++) {
        Fiber& fiber = block.fibers[i];
        fiber.block = &block;
        fiber.linear = i;
        fiber.warp = i / 32;
        fiber.lane = i % 32;
        fiber.done = fiber.spun = false;
        fiber.word = nullptr;
        fiber.where = nullptr;
        fiber.index = {i % block.size.x, i / block.size.x % block.size.y, i / (block.size.x * block.size.y)};
        fiber.open.clear();
        fiber.groups.clear();
        fiber.stack = fresh_stack(block.stacks + (size_t)(i + 1) * STACK_BYTES, fiber_main);
    }
}

inline void reset_block(Block& block) {
    block.threads = block.live = (int)(block.size.x * block.size.y * block.size.z);
    block.failed = false;
    memset(block.barriers, 0, sizeof block.barriers);
    memset(block.votes, 0, sizeof block.votes);
    for (auto& meetings : block.meetings) meetings.clear();
    for (Warpgroup& group : block.warpgroups) {
        group.generation = 0;
        group.arrived = 0;
        group.open.clear();
        group.groups.clear();
    }
    block.loads.clear();
    memset(block.shared, 0xFF, block.shared_bytes);  // not a number in bf16, fp16 and f32
    reset_fibers(block);
}

inline bool is_blocked(const Fiber& fiber) {
    return fiber.done || (fiber.word && (*fiber.word & fiber.mask) == fiber.value);
}

// Each thread of a warp once; whether any got further.
inline bool run_warp_once(Block& block, int warp) {
    int first = warp * 32, lanes = std::min(block.threads - first, 32);
    int offset = settings().order == RANDOM ? (int)(next_random(block.random) % lanes) : 0;
    bool progress = false;
    for (int i = 0; i < lanes && !block.failed; i++) {
        int lane = settings().order == REVERSE ? lanes - 1 - i : (i + offset) % lanes;
        Fiber& fiber = block.fibers[first + lane];
        if (is_blocked(fiber)) continue;
        resume(block, fiber);
        progress |= !fiber.spun;
    }
    return progress;
}

// In random order a warp is also taken off before it must wait.
inline bool run_warp(Block& block, int warp) {
    uint64_t turns = settings().order == RANDOM ? 1 + next_random(block.random) % 8 : ~0ull;
    bool progress = false;
    for (; turns && !block.failed; turns--) {
        if (!run_warp_once(block, warp)) break;
        progress = true;
    }
    return progress;
}

inline void order_warps(Block& block, int* warps, int count) {
    if (settings().order != RANDOM) return;
    for (int i = count - 1; i > 0; i--) std::swap(warps[i], warps[next_random(block.random) % (i + 1)]);
}

inline void report_deadlock(Block& block) {
    report(block, -1, "deadlock; threads that wait:");
    block.failed = true;
    int shown = 0;
    for (int i = 0; i < block.threads && shown < 12; i++) {
        if (block.fibers[i].done) continue;
        shown++;
        fprintf(stderr, "  thread %d: %s\n", i, block.fibers[i].where ? block.fibers[i].where : "in a loop");
    }
}

inline bool is_polling(const Block& block) {
    if (block.cooperative) return true;
    return std::any_of(block.fibers, block.fibers + block.threads,
                       [](const Fiber& fiber) { return !fiber.done && fiber.spun && !fiber.word; });
}

// A block that polls waits for another thread of the host, which may need this one's processor: some minutes at most.
constexpr long MAX_POLLS = 2000000;

inline void rest(long idle) {
    if (idle < 1000) std::this_thread::yield();
    else std::this_thread::sleep_for(std::chrono::microseconds(50));
}

inline void run_block(Block& block) {
    reset_block(block);
    int count = (block.threads + 31) / 32, warps[MAX_WARPS];
    for (int i = 0; i < count; i++) warps[i] = settings().order == REVERSE ? count - 1 - i : i;
    for (long idle = 0; block.live && !block.failed;) {
        bool progress = false;
        order_warps(block, warps, count);
        for (int i = 0; i < count && !block.failed; i++) progress |= run_warp(block, warps[i]);
        if (settings().order == RANDOM && next_random(block.random) % 2) progress |= run_load(block);
        if (progress) idle = 0;
        else if (run_load(block)) continue;
        else if (is_polling(block) && ++idle < MAX_POLLS) rest(idle);
        else if (!block.failed) report_deadlock(block);
    }
}

}  // namespace sim
