// Barriers of a block: __syncthreads, its votes, and the named barriers of PTX.
#pragma once
#include "block.h"

namespace sim {

inline void barrier_arrive(int id, int count) {
    Barrier& barrier = block().barriers[id];
    if (barrier.arrived && barrier.count != count) fail("a named barrier is used with different counts");
    barrier.count = count;
    if (++barrier.arrived < count) return;
    barrier.arrived = 0;
    barrier.generation++;
}

inline void barrier_wait(int id, int count, const char* where) {
    Barrier& barrier = block().barriers[id];
    uint32_t generation = barrier.generation;
    barrier_arrive(id, count);
    wait_while(&barrier.generation, ~0u, generation, where);
    jitter();
}

inline void sync_threads(const char* where) { barrier_wait(0, block().live, where); }

// How many threads of the block had a true predicate.
inline int sync_threads_count(int predicate, const char* where) {
    uint32_t generation = block().barriers[0].generation;
    Vote& vote = block().votes[generation % 2];
    if (vote.generation != generation + 1) vote = {generation + 1, 0};
    vote.count += predicate != 0;
    sync_threads(where);
    return vote.count;
}

// A thread that has ended counts as arrived.
inline void leave_barriers(Block& block) {
    Barrier& barrier = block.barriers[0];
    if (!barrier.arrived) return;
    barrier.count = block.live;
    if (barrier.arrived < block.live) return;
    barrier.arrived = 0;
    barrier.generation++;
}

}  // namespace sim

#define __syncthreads() sim::sync_threads(SIM_WHERE("__syncthreads"))
#define __syncthreads_count(p) sim::sync_threads_count(p, SIM_WHERE("__syncthreads_count"))
#define __syncthreads_or(p) (sim::sync_threads_count(p, SIM_WHERE("__syncthreads_or")) != 0)
#define __syncthreads_and(p) (sim::sync_threads_count(!(p), SIM_WHERE("__syncthreads_and")) == 0)
