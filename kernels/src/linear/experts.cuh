// The rows of a step sorted by expert: each expert's places are cut into tiles of rows, and a block has one tile. How many
// tiles there are, and whose, only the GPU knows (`sort_experts` made the list); the grid has blocks for as many as can be.
// So an expert that was chosen is read once for each tile of its rows, and nothing of an expert that was not.
#pragma once
#include "x.cuh"

// As `ExpertWeight` in cuda_experts.rs.
struct ExpertWeight {
    const uint8_t* weight;  // null: this expert's weight has another format
    const uint8_t* scales;
    float factor;
    int pad;
};

// As `ExpertArgs` in cuda_experts.rs.
struct ExpertArgs {
    const uint2* tiles;           // of [0] .x: how many follow; then the expert and the first place of each
    const uint32_t* starts;       // [num_experts + 1] the first place of each expert
    const uint32_t* rows;         // the row of x of each place; null: x has a row for each place
    const ExpertWeight* weights;  // [num_experts]
    int bias_stride;              // of one expert's biases to those of the next
    int pad;
};

// Makes `a` the product of this block's expert and gives the first of its places; -1: nothing to do.
__device__ __forceinline__ int take_expert(LinearArgs& a, const ExpertArgs& e) {
    if (blockIdx.x >= e.tiles[0].x) return -1;
    const uint2 tile = e.tiles[1 + blockIdx.x];
    const ExpertWeight expert = e.weights[tile.x];
    if (!expert.weight) return -1;
    a.weight = expert.weight, a.scales = expert.scales, a.factor = expert.factor;
    if (a.bias) a.bias += (size_t)tile.x * e.bias_stride;
    a.rows = (int)e.starts[tile.x + 1];
    return (int)tile.y;
}

// The row of x of a place; null behind the last of the expert.
__device__ __forceinline__ const bf16* row_of_place(const LinearArgs& a, const ExpertArgs& e, int place) {
    if (place >= a.rows) return nullptr;
    return a.x + (size_t)(e.rows ? (int)e.rows[place] : place) * a.x_stride;
}

// As `take_rows` of places.
template <int TILES>
__device__ __forceinline__ LaneRows<TILES> take_places(const LinearArgs& a, const ExpertArgs& e, int first_place) {
    LaneRows<TILES> x;
    x.in_features = a.in_features;
#pragma unroll
    for (int t = 0; t < TILES; t++) x.row[t] = row_of_place(a, e, first_place + t * 8 + (int)(threadIdx.x & 31) / 4);
    return x;
}
