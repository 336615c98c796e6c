// Experts that have many rows: a block has 128 features of one expert, 16 a warp, and 64 of its rows. Rows of x are gathered
// into shared memory, 256 numbers at a time, the next while these are multiplied; weights go from memory into registers,
// where they are used for all 64 rows.
//
// An output has the bits that the kernels of few rows give it: the 256-weight parts of each of their warps are added up
// one after the other, and the sums of "warps" in their order.
#pragma once
#include "experts.cuh"

constexpr int MANY_TILES = 8;
constexpr int MANY_ROWS = 8 * MANY_TILES;
constexpr int MANY_FEATURES = 16 * LINEAR_WARPS;
constexpr int STAGED_BYTES = 2 * SPLIT_WEIGHTS;  // of a row of x

// The parts of a row in the order of their additions: part 0, 8, 16, ..., then 1, 9, ...
struct PartOrder {
    int part, count;

    __device__ __forceinline__ bool ends_sum() const { return part + LINEAR_WARPS >= count; }
    __device__ __forceinline__ bool is_last() const { return ends_sum() && part % LINEAR_WARPS + 1 >= min(count, LINEAR_WARPS); }
    __device__ __forceinline__ int next() const { return ends_sum() ? part % LINEAR_WARPS + 1 : part + LINEAR_WARPS; }
};

// Rows of x in shared memory, as `LaneRows`; behind the end there are zeros.
template <int STRIDE>
struct StagedRows {
    const uint8_t* row;  // this lane's of the first 8

    __device__ __forceinline__ StagedRows behind(int tiles) const { return {row + tiles * 8 * STRIDE}; }
    __device__ __forceinline__ uint2 four(int t, int k) const { return *(const uint2*)(row + t * 8 * STRIDE + 2 * k); }
    __device__ __forceinline__ uint4 eight(int t, int k) const { return *(const uint4*)(row + t * 8 * STRIDE + 2 * k); }
};

// Starts to copy part `part` of the block's rows; what is behind their end is 0. A warp takes every 8th row.
__device__ __forceinline__ void stage_rows(uint8_t* stage, int stride, const LinearArgs& a, const bf16* const* rows, int part) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, k = part * SPLIT_WEIGHTS + lane * 8;
#pragma unroll
    for (int t = 0; t < MANY_TILES; t++) {
        const bf16* row = rows[t * 8 + warp];
        const bool reads = row && k < a.in_features;
        cp_async16(stage + (t * 8 + warp) * stride + lane * 16, reads ? row + k : a.x, reads);
    }
}

// Writes what the warps have, by way of shared memory: [row][feature], so that neighbours write neighbours.
__device__ __forceinline__ void write_many(const LinearArgs& a, float* outputs, const float (&total)[MANY_TILES][4], int first_feature, int first_row) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int t = 0; t < MANY_TILES; t++)
#pragma unroll
        for (int k = 0; k < 4; k++) outputs[(t * 8 + lane % 4 * 2 + k % 2) * MANY_FEATURES + warp * 16 + lane / 4 + k / 2 * 8] = total[t][k];
    __syncthreads();
    for (int i = threadIdx.x; i < MANY_ROWS * MANY_FEATURES; i += LINEAR_THREADS) {
        const int row = first_row + i / MANY_FEATURES, feature = first_feature + i % MANY_FEATURES;
        if (row < a.rows && feature < a.out_features) write_output(a, outputs[i], row, feature);
    }
}

// `Weights` are 16 features x 256 weights: `start` loads what it wants to have early, `add` adds their products.
template <class Weights>
__device__ __forceinline__ void many_rows(const LinearArgs& given, const ExpertArgs& e) {
    EXTERN_SHARED(shared);
    __shared__ const bf16* rows[MANY_ROWS];
    constexpr int STRIDE = STAGED_BYTES + Weights::PAD_BYTES, STAGE = MANY_ROWS * STRIDE;
    LinearArgs a = given;
    const int first_row = take_expert(a, e);
    if (first_row < 0) return;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, tile = blockIdx.y * LINEAR_WARPS + warp;
    const bool has_features = tile * 16 < a.out_features;
    if (threadIdx.x < MANY_ROWS) rows[threadIdx.x] = row_of_place(a, e, first_row + threadIdx.x);
    __syncthreads();
    float total[MANY_TILES][4] = {}, sum[MANY_TILES][4] = {};
    PartOrder at{0, (a.in_features + SPLIT_WEIGHTS - 1) / SPLIT_WEIGHTS};
    stage_rows(shared, STRIDE, a, rows, 0);
    cp_async_commit();
    for (int stage = 0;; stage ^= 1) {
        if (!at.is_last()) stage_rows(shared + (stage ^ 1) * STAGE, STRIDE, a, rows, at.next());
        cp_async_commit();
        Weights weights;
        if (has_features) weights.start(a, tile, at.part);
        cp_async_wait<1>();
        __syncthreads();  // the rows are there
        const StagedRows<STRIDE> x{shared + stage * STAGE + lane / 4 * STRIDE};
        if (has_features) weights.add(sum, x, 0, a.in_features - at.part * SPLIT_WEIGHTS);
        if (at.ends_sum()) {
#pragma unroll
            for (int t = 0; t < MANY_TILES; t++)
#pragma unroll
                for (int k = 0; k < 4; k++) total[t][k] = __fadd_rn(total[t][k], sum[t][k]), sum[t][k] = 0.f;
        }
        __syncthreads();  // the rows are read
        if (at.is_last()) break;
        at.part = at.next();
    }
    // Asked for once more, so that no register held it all the time.
    LinearArgs again = given;
    const int same_row = take_expert(again, e);
    write_many(again, (float*)shared, total, blockIdx.y * MANY_FEATURES, same_row);
}
