// index_scores: what `choose_positions` ranks, of one row and every position that its query sees. The blocks of a row share
// its positions; a warp takes 16 at a time: their keys go through shared memory into registers, and meet the queries of all
// heads there, 16 heads at a time. While they do, the next keys arrive. A score is one chain of additions, whoever makes it.
#include "index.cuh"

constexpr int SCORE_WARPS = 8, SCORE_THREADS = 32 * SCORE_WARPS, SCORE_TILE = 16;

// Dynamic shared memory; `scores_bytes` in cuda.rs. Channels and heads behind the last are zeros.
template <int D> struct ScoreShape {
    static_assert(D % 16 == 0, "mma takes 16 channels at once");
    static constexpr int STEPS = D / 16;
    static constexpr int STRIDE = D + 8;  // elements; an odd number of 16 bytes, so ldmatrix meets no bank twice
};

template <int D> struct alignas(16) ScoreShared {
    bf16 keys[SCORE_WARPS][SCORE_TILE * ScoreShape<D>::STRIDE];
};

// 16 rows, of which row r begins at `row(r)`; null: zeros. By a warp. `anywhere`: what zeros are not read from.
template <int D, class Row>
__device__ __forceinline__ void load_rows(bf16* to, const bf16* anywhere, int head_dim, int lane, Row row) {
    for (int i = lane; i < SCORE_TILE * (D / 8); i += 32) {
        const int r = i / (D / 8), c = i % (D / 8) * 8;
        const bf16* from = row(r);
        const bool reads = from && c < head_dim;
        cp_async16(to + r * ScoreShape<D>::STRIDE + c, reads ? from + c : anywhere, reads);
    }
}

template <int D> __device__ __forceinline__ void load_keys(bf16* to, const ChooseArgs& a, const IndexRow& at, int tile, int lane) {
    load_rows<D>(to, a.keys, a.head_dim, lane, [&](int r) -> const bf16* {
        const int position = tile * SCORE_TILE + r;
        if (position >= at.num_positions) return nullptr;
        return a.keys + ((size_t)at.table[position / a.block_size] * a.block_size + position % a.block_size) * a.head_dim;
    });
}

// Of the 16 positions whose keys `k` has: those of rows lane / 4 and lane / 4 + 8, given to all four lanes of a row.
template <int D>
__device__ __forceinline__ void score_tile(float (&scores)[2], const uint32_t (&k)[ScoreShape<D>::STEPS][4], const bf16* queries,
                                           const float* weights, int heads, int lane) {
    scores[0] = scores[1] = 0.f;
    const bf16* own = queries + (lane % 8 + lane / 16 * 8) * ScoreShape<D>::STRIDE + lane / 8 % 2 * 8;
    for (int head = 0; head < heads; head += 16) {
        float s[2][4] = {};
#pragma unroll
        for (int step = 0; step < ScoreShape<D>::STEPS; step++) {
            uint32_t b[4];
            ldmatrix_x4(b, own + head * ScoreShape<D>::STRIDE + step * 16);
            mma16816(s[0], k[step], b[0], b[1]);
            mma16816(s[1], k[step], b[2], b[3]);
        }
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const float2 weight = *(const float2*)(weights + head + n * 8 + lane % 4 * 2);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                scores[i] = __fmaf_rn(weight.x, fmaxf(s[n][2 * i], 0.f), scores[i]);
                scores[i] = __fmaf_rn(weight.y, fmaxf(s[n][2 * i + 1], 0.f), scores[i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        scores[i] += __shfl_xor_sync(~0u, scores[i], 1);
        scores[i] += __shfl_xor_sync(~0u, scores[i], 2);
    }
}

// blockIdx.x: the row; blockIdx.y: which of the row's blocks.
template <int D> __device__ __forceinline__ void scores_body(const ChooseArgs& a, unsigned char* memory) {
    const IndexRow at(a, a.first_row + blockIdx.x);
    if (at.num_positions <= a.top_k) return;  // all are chosen
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, heads = (a.heads + 15) / 16 * 16;
    bf16* keys = ((ScoreShared<D>*)memory)->keys[warp];
    bf16* queries = (bf16*)(memory + sizeof(ScoreShared<D>));
    float* weights = (float*)(queries + heads * ScoreShape<D>::STRIDE);
    for (int first = warp * SCORE_TILE; first < heads; first += SCORE_THREADS / 32 * SCORE_TILE)
        load_rows<D>(queries + first * ScoreShape<D>::STRIDE, a.queries, a.head_dim, lane, [&](int r) -> const bf16* {
            if (first + r >= a.heads) return nullptr;
            return a.queries + (size_t)at.row * a.queries_stride + (first + r) * a.head_dim;
        });
    for (int head = threadIdx.x; head < heads; head += SCORE_THREADS)
        weights[head] = head < a.heads ? a.weights[(size_t)at.row * a.weights_stride + head] : 0.f;
    const int tiles = (at.num_positions + SCORE_TILE - 1) / SCORE_TILE, step = gridDim.y * SCORE_WARPS;
    const int first_tile = blockIdx.y * SCORE_WARPS + warp;
    if (first_tile < tiles) load_keys<D>(keys, a, at, first_tile, lane);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();  // the queries are there
    float* scores = a.scores + (size_t)blockIdx.x * a.scores_stride;
    for (int tile = first_tile; tile < tiles; tile += step) {
        cp_async_wait<0>();
        __syncwarp();  // the keys are there
        uint32_t k[ScoreShape<D>::STEPS][4];
#pragma unroll
        for (int i = 0; i < ScoreShape<D>::STEPS; i++)
            ldmatrix_x4(k[i], keys + lane % 16 * ScoreShape<D>::STRIDE + lane / 16 * 8 + i * 16);
        __syncwarp();  // nobody reads them any more
        if (tile + step < tiles) load_keys<D>(keys, a, at, tile + step, lane);
        cp_async_commit();
        float of_rows[2];
        score_tile<D>(of_rows, k, queries, weights, heads, lane);
        if (lane % 4 != 0) continue;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int position = tile * SCORE_TILE + lane / 4 + 8 * i;
            if (position < at.num_positions) scores[position] = of_rows[i];
        }
    }
}

#define INDEX_SCORES(D)                                                                                                \
    extern "C" __global__ void __launch_bounds__(SCORE_THREADS, 1) index_scores_##D(const ChooseArgs a) {             \
        EXTERN_SHARED(memory);                                                                                         \
        scores_body<D>(a, memory);                                                                                     \
    }                                                                                                                  \
    KERNEL_EXPORT(index_scores_##D)

INDEX_SCORES(16);
INDEX_SCORES(32);
INDEX_SCORES(64);
INDEX_SCORES(128);
