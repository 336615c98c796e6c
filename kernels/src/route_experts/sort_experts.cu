// sort_experts: a block an expert gives its rows their places, by expert and then by row, and lists its tiles. Each block
// counts all experts for itself, so blocks need nothing from each other and no order of theirs is seen.
#include "prims.cuh"

constexpr int SORT_WARPS = 8;
constexpr int SORT_THREADS = 32 * SORT_WARPS;

// As `SortArgs` in cuda.rs.
struct SortArgs {
    const uint32_t* experts;  // [num_places]: row after row
    uint32_t* places;         // [num_places]: the place of each of them
    uint32_t* rows;           // [num_places]: the row of each place
    uint32_t* starts;         // [num_experts + 1]
    uint2* tiles;             // [0].x: how many; then expert and first place
    int num_places, num_chosen, num_experts, tile_rows;
};

// Sums of both over the block, given to each thread.
__device__ __forceinline__ void add_up(uint32_t& a, uint32_t& b, uint32_t (*partial)[SORT_WARPS]) {
    for (int distance = 16; distance; distance >>= 1) {
        a += __shfl_xor_sync(~0u, a, distance);
        b += __shfl_xor_sync(~0u, b, distance);
    }
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (lane == 0) partial[0][warp] = a, partial[1][warp] = b;
    __syncthreads();
    a = b = 0;
    for (int w = 0; w < SORT_WARPS; w++) a += partial[0][w], b += partial[1][w];
}

// Gives the rows of `expert` the places from `next` on.
__device__ __forceinline__ void place_rows(const SortArgs& a, uint32_t expert, uint32_t next, uint32_t end, uint32_t* found) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int first = 0; next < end; first += SORT_THREADS) {
        const int i = first + threadIdx.x;
        const bool is_own = i < a.num_places && a.experts[i] == expert;
        const uint32_t lanes = __ballot_sync(~0u, is_own);
        if (lane == 0) found[warp] = __popc(lanes);
        __syncthreads();  // all warps have counted
        uint32_t place = next + __popc(lanes & ((1u << lane) - 1));
        for (int w = 0; w < SORT_WARPS; w++) {
            if (w < warp) place += found[w];
            next += found[w];
        }
        if (is_own) {
            a.places[i] = place;
            a.rows[place] = i / a.num_chosen;
        }
        __syncthreads();  // the counts are read
    }
}

// Dynamic shared memory: a count of each expert.
extern "C" __global__ void __launch_bounds__(SORT_THREADS) sort_experts(const SortArgs a) {
    EXTERN_SHARED(shared);
    __shared__ uint32_t partial[2][SORT_WARPS];
    __shared__ uint32_t found[SORT_WARPS];
    uint32_t* counts = (uint32_t*)shared;
    const int expert = blockIdx.x;
    for (int e = threadIdx.x; e < a.num_experts; e += SORT_THREADS) counts[e] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < a.num_places; i += SORT_THREADS) atomicAdd(counts + a.experts[i], 1u);
    __syncthreads();
    uint32_t start = 0, first_tile = 0;
    for (int e = threadIdx.x; e < expert; e += SORT_THREADS) {
        start += counts[e];
        first_tile += (counts[e] + a.tile_rows - 1) / a.tile_rows;
    }
    add_up(start, first_tile, partial);
    const uint32_t end = start + counts[expert], num_tiles = (counts[expert] + a.tile_rows - 1) / a.tile_rows;
    if (threadIdx.x == 0) {
        a.starts[expert] = start;
        if (expert == a.num_experts - 1) {
            a.starts[a.num_experts] = end;
            a.tiles[0] = make_uint2(first_tile + num_tiles, 0);
        }
    }
    for (uint32_t t = threadIdx.x; t < num_tiles; t += SORT_THREADS)
        a.tiles[1 + first_tile + t] = make_uint2(expert, start + t * a.tile_rows);
    place_rows(a, expert, start, end, found);
}

KERNEL_EXPORT(sort_experts);
