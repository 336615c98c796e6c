// The work list of attention kernels whose blocks share units of work: each block makes it for itself, in shared memory,
// from the lengths on the device. A unit is ROWS packed rows of one sequence and KV head, and either one split of the
// positions (long contexts: so that all multiprocessors have work) or all of them.
#pragma once
#include "attention.cuh"

// Packed rows of a unit, positions of a tile, tiles of a split, threads of a block, and what a sequence is.
template <int ROWS_, int TILE_, int TILES_PER_SPLIT_, int THREADS_, bool CHOSEN_ = false> struct WorkShape {
    static constexpr int ROWS = ROWS_, TILE_TOKENS = TILE_, SPLIT_TILES = TILES_PER_SPLIT_, SPLIT_TOKENS = TILE_ * TILES_PER_SPLIT_;
    static constexpr int THREADS = THREADS_;
    static constexpr bool CHOSEN = CHOSEN_;  // each query is a sequence of its own, whose positions were chosen for it
};

// For each sequence its first unit, and its first part or NOT_SPLIT.
struct WorkList {
    uint32_t* unit_start;  // [num_seqs + 1]
    uint32_t* part_start;  // [num_seqs]
};
constexpr uint32_t NOT_SPLIT = ~0u;

// Sequence `i` of the list.
template <class Shape> __device__ __forceinline__ AttentionSeq load_listed(const AttentionArgs& a, int i) {
    if constexpr (!Shape::CHOSEN) {
        return load_seq(a, i);
    } else {
        const int row = a.first_row + i;
        int low = 0, high = a.batch_seqs;  // query_start_loc[low] <= row < query_start_loc[high]
        if (row >= (int)a.query_start_loc[high]) return {row, 0, 0, a.block_tables};
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            if ((int)a.query_start_loc[middle] <= row) low = middle; else high = middle;
        }
        const AttentionSeq seq = load_seq(a, low);
        return {row, 1, min(a.top_k, seq.first_position() + row - seq.query_start + 1), seq.table};
    }
}

template <class Shape> __device__ __forceinline__ int first_split(const AttentionArgs& a, const AttentionSeq& seq) {
    return first_visible(a, seq.first_position()) / Shape::SPLIT_TOKENS;
}

template <class Shape> __device__ __forceinline__ int num_splits(const AttentionArgs& a, const AttentionSeq& seq) {
    return (seq.context + Shape::SPLIT_TOKENS - 1) / Shape::SPLIT_TOKENS - first_split<Shape>(a, seq);
}

template <class Shape> __device__ __forceinline__ int num_row_tiles(const AttentionArgs& a, const AttentionSeq& seq) {
    return (seq.num_queries * (a.q_heads / a.kv_heads) + Shape::ROWS - 1) / Shape::ROWS;
}

__device__ __forceinline__ uint32_t warp_prefix_sum(uint32_t v, int lane) {
    for (int x = 1; x < 32; x <<= 1) {
        const uint32_t before = __shfl_up_sync(~0u, v, x);
        if (lane >= x) v += before;
    }
    return v;
}

// Fills the work list. Which sequences are split depends on all of them; no bit of a result depends on it.
template <class Shape> __device__ __forceinline__ void make_work_list(const WorkList& plan, const AttentionArgs& a) {
    const int lane = threadIdx.x & 31;
    for (int i = threadIdx.x; i < a.num_seqs; i += Shape::THREADS) {
        const AttentionSeq seq = load_listed<Shape>(a, i);
        const bool decodes = seq.num_queries > 0 && seq.num_queries <= a.decode_queries;
        plan.unit_start[i + 1] = decodes ? num_row_tiles<Shape>(a, seq) * a.kv_heads : 0;
        plan.part_start[i] = decodes ? num_splits<Shape>(a, seq) : 0;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        uint32_t all = 0;
        for (int i = lane; i < a.num_seqs; i += 32) all += plan.unit_start[i + 1] * plan.part_start[i];
        all = __shfl_sync(~0u, warp_prefix_sum(all, lane), 31);
        const uint32_t large = all / (2 * gridDim.x);  // splits of a unit that would keep others waiting
        uint32_t units = 0, parts = 0;
        for (int base = 0; base < a.num_seqs; base += 32) {
            const int i = base + lane;
            const uint32_t tiles = i < a.num_seqs ? plan.unit_start[i + 1] : 0, splits = i < a.num_seqs ? plan.part_start[i] : 0;
            const uint32_t wanted = splits > 1 && splits > large ? tiles * splits : 0;
            const uint32_t parts_end = parts + warp_prefix_sum(wanted, lane);
            const bool is_split = wanted > 0 && parts_end <= (uint32_t)a.num_parts;
            const uint32_t units_end = units + warp_prefix_sum(is_split ? wanted : tiles, lane);
            if (i < a.num_seqs) {
                plan.unit_start[i + 1] = units_end;
                plan.part_start[i] = is_split ? parts_end - wanted : NOT_SPLIT;
            }
            parts = __shfl_sync(~0u, parts_end, 31), units = __shfl_sync(~0u, units_end, 31);
        }
        if (lane == 0) plan.unit_start[0] = 0;
    }
    __syncthreads();
}

// A unit, and the tile of it that is loaded or computed next.
template <class Shape> struct WorkUnit {
    int index;  // in the work list; at or beyond its end: none
    AttentionSeq seq;
    int kv_head, row;
    int first, end;             // positions that some row of the unit sees
    int tile, first_tile, last_tile;
    uint32_t part, first_part;  // its part (or NOT_SPLIT) and the first one of its row tile
    int splits;

    __device__ __forceinline__ void find(const WorkList& plan, const AttentionArgs& a, int unit) {
        index = unit;
        if (index >= (int)plan.unit_start[a.num_seqs]) return;
        int low = 0, high = a.num_seqs;  // unit_start[low] <= index < unit_start[high]
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            if ((int)plan.unit_start[middle] <= index) low = middle; else high = middle;
        }
        seq = load_listed<Shape>(a, low);
        splits = num_splits<Shape>(a, seq);
        part = NOT_SPLIT;
        int row_tile = index - (int)plan.unit_start[low], split = 0;
        if (plan.part_start[low] != NOT_SPLIT) {
            split = first_split<Shape>(a, seq) + row_tile % splits;
            part = plan.part_start[low] + row_tile;
            row_tile /= splits;
            first_part = plan.part_start[low] + row_tile * splits;
        }
        kv_head = row_tile % a.kv_heads;
        row = row_tile / a.kv_heads * Shape::ROWS;
        find_tiles(a, split);
    }
    // A unit of one split has the tiles of it that some row of the sequence sees; the others those that a row of theirs sees.
    __device__ __forceinline__ void find_tiles(const AttentionArgs& a, int split) {
        const int group = a.q_heads / a.kv_heads, last_row = min(row + Shape::ROWS, seq.num_queries * group) - 1;
        first = first_visible(a, seq.first_position());
        end = part == NOT_SPLIT ? last_visible(a, seq.first_position() + last_row / group, seq.context) + 1 : seq.context;
        first_tile = first / Shape::TILE_TOKENS, last_tile = (end - 1) / Shape::TILE_TOKENS;
        if (part != NOT_SPLIT) {
            first_tile = max(first_tile, split * Shape::SPLIT_TILES);
            last_tile = min(last_tile, split * Shape::SPLIT_TILES + Shape::SPLIT_TILES - 1);
        }
        tile = first_tile;
    }
    __device__ __forceinline__ bool exists(const WorkList& plan, const AttentionArgs& a) const {
        return index < (int)plan.unit_start[a.num_seqs];
    }
    __device__ __forceinline__ void advance(const WorkList& plan, const AttentionArgs& a) {
        if (++tile > last_tile) find(plan, a, index + gridDim.x);
    }
    __device__ __forceinline__ bool ends_split() const { return tile == last_tile || tile % Shape::SPLIT_TILES == Shape::SPLIT_TILES - 1; }
};
