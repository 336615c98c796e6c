// Instructions in which the lanes of a warp meet: the last lane to come does the work for all.
#pragma once
#include "block.h"

namespace sim {

// Which instruction a lane is in; lanes of one mask must agree.
enum Instruction { SYNC_WARP = 1, SHUFFLE, SHUFFLE_XOR, SHUFFLE_DOWN, SHUFFLE_UP, BALLOT, MATCH, REDUCE, LDMATRIX = 32, MMA = 64 };

inline Meeting& meeting(unsigned mask) {
    auto& meetings = block().meetings[current->warp];
    for (Meeting& meeting : meetings)
        if (meeting.mask == mask) return meeting;
    // Lanes that wait keep pointers into the list.
    if (meetings.empty()) meetings.reserve(64);
    if (meetings.size() == 64) fail("more than 64 different masks in a warp");
    meetings.push_back(Meeting{mask, 0, 0, 0, {}});
    return meetings.back();
}

// `work(lanes)` gets what each lane of the mask brought.
template <class Work>
inline void meet(unsigned mask, int instruction, void* mine, Work work, const char* where) {
    unsigned bit = 1u << current->lane;
    if (!(mask & bit)) fail("a lane is not in the mask it gives");
    Meeting& here = meeting(mask);
    if (here.arrived && here.instruction != instruction) fail("lanes of one mask are in different instructions");
    if (here.arrived & bit) fail("a lane comes to one instruction twice");
    uint32_t generation = here.generation;
    here.instruction = instruction;
    here.lanes[current->lane] = mine;
    here.arrived |= bit;
    if (here.arrived == mask) {
        work(here.lanes);
        here.arrived = 0;
        here.generation++;
    } else {
        wait_while(&here.generation, ~0u, generation, where);
    }
}

template <class T>
struct ShuffledLane {
    T in, out;
    int source;
};

template <class T>
inline T shuffle(unsigned mask, T value, int source, int instruction, const char* where) {
    ShuffledLane<T> mine{value, value, source};
    meet(mask, instruction, &mine, [mask](void** lanes) {
        for (int lane = 0; lane < 32; lane++) {
            if (!(mask >> lane & 1)) continue;
            auto* to = (ShuffledLane<T>*)lanes[lane];
            if (!(mask >> to->source & 1)) fail("a shuffle reads a lane outside its mask");
            to->out = ((ShuffledLane<T>*)lanes[to->source])->in;
        }
    }, where);
    return mine.out;
}

struct VotingLane {
    uint64_t in;
    unsigned out;
};

inline unsigned ballot(unsigned mask, int predicate, const char* where) {
    VotingLane mine{predicate != 0, 0};
    meet(mask, BALLOT, &mine, [mask](void** lanes) {
        unsigned votes = 0;
        for (int lane = 0; lane < 32; lane++)
            if ((mask >> lane & 1) && ((VotingLane*)lanes[lane])->in) votes |= 1u << lane;
        for (int lane = 0; lane < 32; lane++)
            if (mask >> lane & 1) ((VotingLane*)lanes[lane])->out = votes;
    }, where);
    return mine.out;
}

// The lanes that hold the same value.
inline unsigned match_any(unsigned mask, uint64_t value) {
    VotingLane mine{value, 0};
    meet(mask, MATCH, &mine, [mask](void** lanes) {
        for (int lane = 0; lane < 32; lane++) {
            if (!(mask >> lane & 1)) continue;
            auto* to = (VotingLane*)lanes[lane];
            for (int other = 0; other < 32; other++)
                if ((mask >> other & 1) && ((VotingLane*)lanes[other])->in == to->in) to->out |= 1u << other;
        }
    }, "__match_any_sync");
    return mine.out;
}

template <class T, class Combine>
inline T reduce(unsigned mask, T value, int which, Combine combine) {
    T mine[2] = {value, value};
    meet(mask, REDUCE + 100 * which, mine, [mask, combine](void** lanes) {
        T total{};
        bool first = true;
        for (int lane = 0; lane < 32; lane++) {
            if (!(mask >> lane & 1)) continue;
            T in = ((T*)lanes[lane])[0];
            total = first ? in : combine(total, in);
            first = false;
        }
        for (int lane = 0; lane < 32; lane++)
            if (mask >> lane & 1) ((T*)lanes[lane])[1] = total;
    }, "__reduce_sync");
    return mine[1];
}

inline int lane_in_warp() { return current->lane; }

}  // namespace sim

static inline void __syncwarp(unsigned mask = ~0u) {
    sim::meet(mask, sim::SYNC_WARP, nullptr, [](void**) {}, "__syncwarp");
    sim::jitter();
}
template <class T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    int first = sim::lane_in_warp() & ~(width - 1);
    return sim::shuffle(mask, value, first + (source & (width - 1)), sim::SHUFFLE, "__shfl_sync");
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    int lane = sim::lane_in_warp(), source = lane ^ bits;
    bool inside = source < (lane & ~(width - 1)) + width;
    return sim::shuffle(mask, value, inside ? source : lane, sim::SHUFFLE_XOR, "__shfl_xor_sync");
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, int delta, int width = 32) {
    int lane = sim::lane_in_warp();
    bool inside = (lane & (width - 1)) + delta < width;
    return sim::shuffle(mask, value, inside ? lane + delta : lane, sim::SHUFFLE_DOWN, "__shfl_down_sync");
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, int delta, int width = 32) {
    int lane = sim::lane_in_warp();
    bool inside = (lane & (width - 1)) >= delta;
    return sim::shuffle(mask, value, inside ? lane - delta : lane, sim::SHUFFLE_UP, "__shfl_up_sync");
}
#define __ballot_sync(mask, p) sim::ballot(mask, p, SIM_WHERE("__ballot_sync"))
#define __any_sync(mask, p) (sim::ballot(mask, p, SIM_WHERE("__any_sync")) != 0)
#define __all_sync(mask, p) (sim::ballot(mask, !(p), SIM_WHERE("__all_sync")) == 0)
template <class T>
static inline unsigned __match_any_sync(unsigned mask, T value) {
    return sim::match_any(mask, (uint64_t)value);
}
template <class T>
static inline T __reduce_add_sync(unsigned mask, T value) {
    return sim::reduce(mask, value, 0, [](T a, T b) { return a + b; });
}
template <class T>
static inline T __reduce_max_sync(unsigned mask, T value) {
    return sim::reduce(mask, value, 1, [](T a, T b) { return a > b ? a : b; });
}
template <class T>
static inline T __reduce_min_sync(unsigned mask, T value) {
    return sim::reduce(mask, value, 2, [](T a, T b) { return a < b ? a : b; });
}
template <class T>
static inline T __reduce_or_sync(unsigned mask, T value) {
    return sim::reduce(mask, value, 3, [](T a, T b) { return a | b; });
}
static inline unsigned __activemask() { sim::fail("__activemask: kernels must give the mask they mean"); }
