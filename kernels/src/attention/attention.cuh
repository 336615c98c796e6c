// Attention over paged keys and values on CUDA: what decode and prefill share.
//
// Both give a row the same bits. Positions are cut, from 0 on, into splits of SPLIT and these into tiles of TILE. Within a
// split the softmax runs online, tile after tile; splits are then merged in order (`Merged`). Scores and weighted values
// are chains of mma.sync in the order of k, where no row sees its neighbours, and what is masked adds exact zeros. So
// neither the batch, nor the chunk, nor who computes a split changes a bit.
//
// Rows of a tile are packed: row r of a sequence and KV head is the query r / group of query head r % group of that KV
// head (group = query heads / KV heads), so that each key is read once for all heads that share it.
#pragma once
#include "float8.cuh"

constexpr int TILE = 64;
constexpr int TILES_PER_SPLIT = 4;
constexpr int SPLIT = TILE * TILES_PER_SPLIT;
constexpr int ATTENTION_THREADS = 128;
constexpr int NUM_WARPS = ATTENTION_THREADS / 32;
constexpr uint32_t ONE_ONE = 0x3F803F80u;  // two bf16 ones

// As `AttentionArgs` in cuda.rs.
struct AttentionArgs {
    bf16* out;                        // [rows, q_heads, D], rows out_stride apart
    const bf16* q;                    // the same with q_stride
    const void* keys;                 // [block][kv_head][block_size][D] of bf16 or e4m3, as the kernel's name says
    const void* values;               // the same
    const uint32_t* query_start_loc;  // [num_seqs + 1]
    const uint32_t* context_lens;     // [num_seqs]
    const uint32_t* block_tables;     // [table rows][max_blocks]
    const uint32_t* rows;             // [num_seqs]: table row of each sequence
    const float* sinks;               // [q_heads]: a score without a value; may be null
    float* parts;                     // decode: [num_parts] partial results
    uint32_t* arrivals;               // decode: [num_parts], all 0 between launches
    const uint32_t* chosen;           // attention_to: [rows][top_k], the positions that each row sees, ascending
    const uint32_t* place_start_loc;  // [rows + 1]: where the places of each row begin; null: no row branches
    const uint32_t* places;           // where the last positions lie that a row sees, of rows that branch: each is a sequence
    int q_stride, out_stride;
    int num_seqs, max_blocks, block_size;  // attention_to: each row from first_row on is a sequence
    int q_heads, kv_heads;
    int window, chunk;                // a query sees so many positions, or those of its chunk; 0: all
    int both_ways;                    // it sees those behind it, too; with a window half of it on either side
    int decode_queries;               // sequences with at most so many queries are decode's, the others prefill's
    int num_parts;
    int first_row, batch_seqs, top_k; // attention_to: of this launch; sequences of the batch; columns of `chosen`
    float scale;                      // of q·k; with a softcap divided by it, else times log2(e)
    float softcap_log2;               // softcap · log2(e); 0: none
    int pad;
};

template <int D> struct HeadShape {
    static_assert(D % 8 == 0, "cp.async takes 8 channels at once");
    static constexpr int STEPS = (D + 15) / 16, PADDED = STEPS * 16;  // mma takes 16 channels: those behind the last are zeros
    static constexpr int STRIDE = PADDED + 8;  // elements; an odd number of 16 bytes, so ldmatrix meets no bank twice
};

// One sequence of the batch.
struct AttentionSeq {
    int query_start, num_queries, context;
    const uint32_t* table;
    __device__ __forceinline__ int first_position() const { return context - num_queries; }
};

__device__ __forceinline__ AttentionSeq load_seq(const AttentionArgs& a, int seq) {
    const int start = (int)a.query_start_loc[seq];
    return {start, (int)a.query_start_loc[seq + 1] - start, (int)a.context_lens[seq],
            a.block_tables + (size_t)a.rows[seq] * a.max_blocks};
}

__device__ __forceinline__ int first_visible(const AttentionArgs& a, int position) {
    if (a.chunk > 0) return position - position % a.chunk;
    const int reach = a.both_ways ? a.window / 2 : a.window - 1;
    return a.window > 0 ? max(position - reach, 0) : 0;
}

__device__ __forceinline__ int last_visible(const AttentionArgs& a, int position, int context) {
    if (!a.both_ways) return position;
    return a.window > 0 ? min(position + a.window / 2, context - 1) : context - 1;
}

// Where a position lies among those of the sequence: of a row that branches the last ones lie at its places.
__device__ __forceinline__ int place_of(const AttentionArgs& a, const AttentionSeq& seq, int position) {
    if (!a.place_start_loc) return position;
    const int start = (int)a.place_start_loc[seq.query_start];
    const int moved = seq.context - ((int)a.place_start_loc[seq.query_start + 1] - start);
    return position < moved ? position : (int)a.places[start + position - moved];
}

// The positions that the two rows of this thread see: rows lane / 4 and lane / 4 + 8 from `row` on, and for rows behind
// the last those of the last one, whose results are dropped.
struct VisibleRange {
    int first[2], last[2];
    __device__ __forceinline__ VisibleRange(const AttentionArgs& a, const AttentionSeq& seq, int row) {
        const int group = a.q_heads / a.kv_heads, num_rows = seq.num_queries * group;
        for (int i = 0; i < 2; i++) {
            const int r = min(row + (int)(threadIdx.x & 31) / 4 + 8 * i, num_rows - 1);
            const int position = seq.first_position() + r / group;
            last[i] = last_visible(a, position, seq.context);
            first[i] = first_visible(a, position);
        }
    }
};

// Copies `M` packed query rows from `row` on; rows behind the last repeat it.
template <int D, int M>
__device__ __forceinline__ void load_queries(bf16* to, const AttentionArgs& a, const AttentionSeq& seq, int kv_head, int row) {
    const int group = a.q_heads / a.kv_heads, num_rows = seq.num_queries * group;
    for (int r = threadIdx.x / 8; r < M; r += ATTENTION_THREADS / 8) {
        const int packed = min(row + r, num_rows - 1);
        const bf16* from = a.q + (size_t)(seq.query_start + packed / group) * a.q_stride + (kv_head * group + packed % group) * D;
        for (int c = threadIdx.x % 8; c < HeadShape<D>::PADDED / 8; c += 8)
            cp_async16(to + r * HeadShape<D>::STRIDE + 8 * c, from + 8 * c, 8 * c < D);
    }
}

// Copies `channels` of a token into a row of a tile of N, whose padding is zeros; e4m3 into the end of the room that they take
// as bf16, where `widen_tile` finds them. Eight lanes a row.
template <int N, class Page> __device__ __forceinline__ void load_token(bf16* row, const Page* from, bool inside, int channels = N) {
    static_assert(sizeof(Page) == sizeof(bf16) || HeadShape<N>::PADDED == N, "eight bits have no padding");
    unsigned char* to = (unsigned char*)row + N * (sizeof(bf16) - sizeof(Page));
    for (int c = threadIdx.x % 8; c < HeadShape<N>::PADDED * (int)sizeof(Page) / 16; c += 8)
        cp_async16(to + 16 * c, (const unsigned char*)from + 16 * c, inside && 16 * c < channels * (int)sizeof(Page));
}

// Makes bf16 of the tokens that this warp has copied and waited for; the others' are the other warps' to do.
template <int N, class Page> __device__ __forceinline__ void widen_tile(bf16* tile) {
    if constexpr (sizeof(Page) == 1) {
        constexpr int CHUNKS = N / 16, PER_LANE = (CHUNKS + 7) / 8;
        for (int r = threadIdx.x / 8; r < TILE; r += ATTENTION_THREADS / 8) {
            unsigned char* row = (unsigned char*)(tile + r * HeadShape<N>::STRIDE);
            uint4 codes[PER_LANE];
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) {
                const int c = threadIdx.x % 8 + 8 * i;
                if (c < CHUNKS) codes[i] = *(const uint4*)(row + N + 16 * c);
            }
            __syncwarp();  // all have read their codes, over which others write
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) {
                const int c = threadIdx.x % 8 + 8 * i;
                if (c >= CHUNKS) continue;
                uint4 numbers[2];
                widen_e4m3(numbers, codes[i]);
                ((uint4*)row)[2 * c] = numbers[0];
                ((uint4*)row)[2 * c + 1] = numbers[1];
            }
        }
    }
}

// Copies the tokens of tile `tile` from the pages: keys, and of values the channels `column..column + WIDTH`, where not
// null. Tokens outside `first..end` are zeros, and nothing is read for them: their blocks may not exist.
template <int D, class Page, int WIDTH = D>
__device__ __forceinline__ void load_tile(bf16* keys, bf16* values, const AttentionArgs& a, const AttentionSeq& seq, int kv_head,
                                          int tile, int first, int end, int column = 0) {
    for (int r = threadIdx.x / 8; r < TILE; r += ATTENTION_THREADS / 8) {
        const int token = tile * TILE + r;
        const bool inside = token >= first && token < end;
        size_t at = 0;
        if (inside) {
            const int place = place_of(a, seq, token);
            const size_t block = seq.table[place / a.block_size];
            at = ((block * a.kv_heads + kv_head) * a.block_size + place % a.block_size) * D;
        }
        if (keys) load_token<D>(keys + r * HeadShape<D>::STRIDE, (const Page*)a.keys + at, inside);
        const Page* value = (const Page*)a.values + at + (inside ? column : 0);
        if (values) load_token<WIDTH>(values + r * HeadShape<WIDTH>::STRIDE, value, inside, D < WIDTH ? D : WIDTH);
    }
}

// Where lane `lane` points ldmatrix for the 16 × 16 operand A that starts at `tile`.
template <int STRIDE> __device__ __forceinline__ const bf16* operand_a(const bf16* tile, int lane) {
    return tile + lane % 16 * STRIDE + lane / 16 * 8;
}

// Scores of 16 rows and `GROUPS` times 16 tokens: `s[2g + h][..]` are columns 16g + 8h on, in the layout of mma.
template <int D, int GROUPS, class Queries>
__device__ __forceinline__ void multiply_keys(float (&s)[2 * GROUPS][4], Queries queries, const bf16* keys, int lane) {
#pragma unroll
    for (int n = 0; n < 2 * GROUPS; n++)
        for (int k = 0; k < 4; k++) s[n][k] = 0.f;
#pragma unroll
    for (int step = 0; step < HeadShape<D>::STEPS; step++) {
        uint32_t q[4];
        queries(q, step);
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            uint32_t b[4];
            const int row = g * 16 + lane % 8 + lane / 16 * 8, column = step * 16 + lane / 8 % 2 * 8;
            ldmatrix_x4(b, keys + row * HeadShape<D>::STRIDE + column);
            mma16816(s[2 * g], q, b[0], b[1]);
            mma16816(s[2 * g + 1], q, b[2], b[3]);
        }
    }
}

// tanh by ex2: the absolute error is below 1e-6.
__device__ __forceinline__ float tanh_ex2(float x) {
    const float e = ex2(__fmul_rn(x, 2.88539008f));  // e^2x
    return __fsub_rn(1.f, __fdiv_rn(2.f, __fadd_rn(e, 1.f)));
}

// Scales the scores (base 2 from here on), hides what a row does not see, and raises `largest` to the largest of this
// thread's columns. `column`: position of column 0.
template <int N>
__device__ __forceinline__ void mask_scores(float (&s)[N][4], float (&largest)[2], const AttentionArgs& a, const VisibleRange& sees,
                                            int column, int lane) {
    const bool capped = a.softcap_log2 > 0.f;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const int position = column + n * 8 + lane % 4 * 2 + k % 2, row = k / 2;
            float score = __fmul_rn(s[n][k], a.scale);
            if (capped) score = __fmul_rn(tanh_ex2(score), a.softcap_log2);
            s[n][k] = position >= sees.first[row] && position <= sees.last[row] ? score : -INFINITY;
            largest[row] = fmaxf(largest[row], s[n][k]);
        }
}

// Of the four lanes that share a row.
__device__ __forceinline__ float row_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
    return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}

// What sums relative to `before` are multiplied with to be relative to `after`.
__device__ __forceinline__ float rescale(float before, float after) { return after == -INFINITY ? 1.f : ex2(__fsub_rn(before, after)); }

__device__ __forceinline__ float probability(float score, float largest) {
    return largest == -INFINITY ? 0.f : ex2(__fsub_rn(score, largest));
}

// The splits of a row so far: largest score, sum of weights; and how one more changes them.
struct Merged {
    float largest = -INFINITY, sum = 0.f;
    float keep, take;  // factors of the values so far and of the split's

    __device__ __forceinline__ void add(float split_largest, float split_sum) {
        const float next = fmaxf(largest, split_largest);
        keep = largest == -INFINITY ? 0.f : ex2(__fsub_rn(largest, next));
        take = split_largest == -INFINITY ? 0.f : ex2(__fsub_rn(split_largest, next));
        sum = __fmaf_rn(sum, keep, __fmul_rn(split_sum, take));
        largest = next;
    }
    __device__ __forceinline__ float value(float so_far, float split) const { return __fmaf_rn(so_far, keep, __fmul_rn(split, take)); }

    // What the values are multiplied with in the end. `sinks` may be null.
    __device__ __forceinline__ float normalizer(const float* sinks, int head) const {
        if (!sinks) return sum > 0.f ? __fdiv_rn(1.f, sum) : 0.f;
        const float sink = __fmul_rn(sinks[head], 1.44269504f), top = fmaxf(largest, sink);
        const float factor = largest == -INFINITY ? 0.f : ex2(__fsub_rn(largest, top));
        return __fdiv_rn(factor, __fmaf_rn(sum, factor, ex2(__fsub_rn(sink, top))));
    }
};

// First element of packed row `row` in `out`.
template <int D> __device__ __forceinline__ bf16* output_row(const AttentionArgs& a, const AttentionSeq& seq, int kv_head, int row) {
    const int group = a.q_heads / a.kv_heads;
    return a.out + (size_t)(seq.query_start + row / group) * a.out_stride + (kv_head * group + row % group) * D;
}
