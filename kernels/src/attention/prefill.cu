// Prefill attention over pages: a block has 64 packed rows of one sequence and KV head, a warp 16 of them, and walks over
// all tiles that they see. Keys and values have one buffer each: the next keys arrive while the values are used, the
// values while the scores are computed; the other blocks of the multiprocessor fill the gaps. Heads of more than 128
// channels are computed 128 at a time, by blocks of their own: registers hold no more. Needs sm_80.
// Source of the method: Dao, FlashAttention-2, 2023.
#include "attention.cuh"

constexpr int PREFILL_ROWS = 16 * NUM_WARPS;

// Dynamic shared memory; `PREFILL_SHARED_BYTES` in cuda.rs.
template <int D> struct PrefillShared {
    static constexpr bool QUERIES_IN_REGISTERS = D <= 128;
    static constexpr int WIDTH = D <= 128 ? HeadShape<D>::PADDED : 128;  // channels of the output that a block computes
    bf16 keys[TILE * HeadShape<D>::STRIDE];
    bf16 values[TILE * HeadShape<WIDTH>::STRIDE];
    float4 merged[WIDTH / 8 * ATTENTION_THREADS];  // values of the splits before this one: each thread's own
    bf16 queries[QUERIES_IN_REGISTERS ? 8 : PREFILL_ROWS * HeadShape<D>::STRIDE];

    // Queries that move to registers lie where `merged` is later.
    __device__ __forceinline__ bf16* query_tile() { return QUERIES_IN_REGISTERS ? (bf16*)merged : queries; }
};

// What a block computes.
struct PrefillTile { int seq, kv_head, row, column; };

// Finds tile `index` of the batch; false when there are fewer. Within a sequence the last rows, which see most, come first.
// Every warp does the same. `parts`: into how many the channels are cut; `column`: which one.
__device__ __forceinline__ bool find_prefill_tile(PrefillTile& tile, const AttentionArgs& a, int index, int parts, int lane) {
    const int group = a.q_heads / a.kv_heads, units = a.kv_heads * parts;
    for (int base = 0; base < a.num_seqs; base += 32) {
        const int seq = base + lane;
        int queries = 0;
        if (seq < a.num_seqs) queries = (int)(a.query_start_loc[seq + 1] - a.query_start_loc[seq]);
        const int row_tiles = queries > a.decode_queries ? (queries * group + PREFILL_ROWS - 1) / PREFILL_ROWS : 0;
        int end = row_tiles * units;
        for (int x = 1; x < 32; x <<= 1) {
            const int before = __shfl_up_sync(~0u, end, x);
            if (lane >= x) end += before;
        }
        const unsigned behind = __ballot_sync(~0u, end > index);
        if (behind) {
            const int found = __ffs(behind) - 1;
            const int num_tiles = __shfl_sync(~0u, row_tiles, found);
            const int local = index - (__shfl_sync(~0u, end, found) - num_tiles * units), unit = local % units;
            tile = {base + found, unit / parts, (num_tiles - 1 - local / units) * PREFILL_ROWS, unit % parts};
            return true;
        }
        index -= __shfl_sync(~0u, end, 31);
    }
    return false;
}

// A warp's rows of a tile while it walks over the positions.
template <int D> struct PrefillWarp {
    using Shape = HeadShape<D>;
    using Shared = PrefillShared<D>;
    static constexpr int NUM_QUERIES = Shared::QUERIES_IN_REGISTERS ? Shape::STEPS : 1;
    static constexpr int WIDTH = Shared::WIDTH, VALUE_STRIDE = HeadShape<WIDTH>::STRIDE;
    float o[WIDTH / 8][4], sum[4], largest[2];
    uint32_t q[NUM_QUERIES][4];
    Merged merged[2];
    bool has_merged = false;

    __device__ __forceinline__ void start_split() {
#pragma unroll
        for (int i = 0; i < WIDTH / 8; i++)
            for (int k = 0; k < 4; k++) o[i][k] = 0.f;
        for (int k = 0; k < 4; k++) sum[k] = 0.f;
        largest[0] = largest[1] = -INFINITY;
    }

    __device__ __forceinline__ void load_registers(Shared& shared, int warp, int lane) {
        if constexpr (Shared::QUERIES_IN_REGISTERS)
#pragma unroll
            for (int step = 0; step < Shape::STEPS; step++)
                load_query(q[step], shared, step, warp, lane);
    }

    __device__ __forceinline__ static void load_query(uint32_t (&fragment)[4], Shared& shared, int step, int warp, int lane) {
        ldmatrix_x4(fragment, operand_a<Shape::STRIDE>(shared.query_tile() + warp * 16 * Shape::STRIDE + step * 16, lane));
    }

    __device__ __forceinline__ void scores(float (&s)[TILE / 8][4], Shared& shared, int warp, int lane) {
        multiply_keys<D, TILE / 16>(s, [&](uint32_t (&fragment)[4], int step) {
            if constexpr (Shared::QUERIES_IN_REGISTERS)
                for (int k = 0; k < 4; k++) fragment[k] = q[step][k];
            else load_query(fragment, shared, step, warp, lane);
        }, shared.keys, lane);
    }

    // Scores become weights, and what was summed is rescaled to the new largest score.
    __device__ __forceinline__ void weigh(uint32_t (&p)[TILE / 16][4], float (&s)[TILE / 8][4], const AttentionArgs& a,
                                          const VisibleRange& sees, int column, int lane) {
        float next[2] = {largest[0], largest[1]};
        mask_scores(s, next, a, sees, column, lane);
#pragma unroll
        for (int row = 0; row < 2; row++) {
            next[row] = row_max(next[row]);
            const float factor = rescale(largest[row], next[row]);
            largest[row] = next[row];
            sum[2 * row] *= factor;
#pragma unroll
            for (int i = 0; i < WIDTH / 8; i++) o[i][2 * row] *= factor, o[i][2 * row + 1] *= factor;
        }
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int row = 0; row < 2; row++)
                p[n / 2][n % 2 * 2 + row] =
                    pack_bf16(probability(s[n][2 * row], largest[row]), probability(s[n][2 * row + 1], largest[row]));
    }

    __device__ __forceinline__ void add_values(const uint32_t (&p)[TILE / 16][4], const bf16* values, int lane) {
#pragma unroll
        for (int step = 0; step < TILE / 16; step++) {
            mma16816(sum, p[step], ONE_ONE, ONE_ONE);
#pragma unroll
            for (int n = 0; n < WIDTH / 16; n++) {
                uint32_t b[4];
                ldmatrix_x4_trans(b, values + (step * 16 + lane % 16) * VALUE_STRIDE + n * 16 + lane / 16 * 8);
                mma16816(o[2 * n], p[step], b[0], b[1]);
                mma16816(o[2 * n + 1], p[step], b[2], b[3]);
            }
        }
    }

    // Merges the split with those before it. `store`: for the next split; else the result stays in `o`.
    __device__ __forceinline__ void end_split(Shared& shared, bool store) {
        for (int row = 0; row < 2; row++) merged[row].add(largest[row], sum[2 * row]);
#pragma unroll
        for (int i = 0; i < WIDTH / 8; i++) {
            float4& slot = shared.merged[i * ATTENTION_THREADS + threadIdx.x];
            const float4 before = has_merged ? slot : make_float4(0.f, 0.f, 0.f, 0.f);
            o[i][0] = merged[0].value(before.x, o[i][0]);
            o[i][1] = merged[0].value(before.y, o[i][1]);
            o[i][2] = merged[1].value(before.z, o[i][2]);
            o[i][3] = merged[1].value(before.w, o[i][3]);
            if (store) slot = make_float4(o[i][0], o[i][1], o[i][2], o[i][3]);
        }
        has_merged = true;
    }

    __device__ __forceinline__ void write(const AttentionArgs& a, const AttentionSeq& seq, const PrefillTile& tile, int warp, int lane) {
        const int group = a.q_heads / a.kv_heads;
        for (int i = 0; i < 2; i++) {
            const int row = tile.row + warp * 16 + lane / 4 + 8 * i;
            if (row >= seq.num_queries * group) continue;
            const float factor = merged[i].normalizer(a.sinks, tile.kv_head * group + row % group);
            uint32_t* out = (uint32_t*)(output_row<D>(a, seq, tile.kv_head, row) + tile.column * WIDTH);
#pragma unroll
            for (int n = 0; n < min(WIDTH, D) / 8; n++) out[n * 4 + lane % 4] = pack_bf16(o[n][2 * i] * factor, o[n][2 * i + 1] * factor);
        }
    }
};

template <int D, class Page> __device__ __forceinline__ void prefill_body(const AttentionArgs& a, PrefillShared<D>& shared) {
    constexpr int WIDTH = PrefillShared<D>::WIDTH;
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, group = a.q_heads / a.kv_heads;
    PrefillTile tile;
    if (!find_prefill_tile(tile, a, blockIdx.x, (D + WIDTH - 1) / WIDTH, lane)) return;
    const AttentionSeq seq = load_seq(a, tile.seq);
    const int last_row = min(tile.row + PREFILL_ROWS, seq.num_queries * group) - 1;
    const int first = first_visible(a, seq.first_position() + tile.row / group);
    const int end = last_visible(a, seq.first_position() + last_row / group, seq.context) + 1;
    const VisibleRange sees(a, seq, tile.row + warp * 16);
    const int last_tile = (end - 1) / TILE;
    load_queries<D, PREFILL_ROWS>(shared.query_tile(), a, seq, tile.kv_head, tile.row);
    load_tile<D, Page, WIDTH>(shared.keys, nullptr, a, seq, tile.kv_head, first / TILE, first, end);
    cp_async_commit();
    PrefillWarp<D> state;
    state.start_split();
    for (int j = first / TILE; j <= last_tile; j++) {
        cp_async_wait<0>();
        widen_tile<D, Page>(shared.keys);
        __syncthreads();  // the keys are there, and nobody reads the old values any more
        load_tile<D, Page, WIDTH>(nullptr, shared.values, a, seq, tile.kv_head, j, first, end, tile.column * WIDTH);
        cp_async_commit();
        if (j == first / TILE) state.load_registers(shared, warp, lane);
        float s[TILE / 8][4];
        state.scores(s, shared, warp, lane);
        cp_async_wait<0>();
        widen_tile<WIDTH, Page>(shared.values);
        __syncthreads();  // the values are there, and nobody reads the keys any more
        if (j < last_tile) load_tile<D, Page, WIDTH>(shared.keys, nullptr, a, seq, tile.kv_head, j + 1, first, end);
        cp_async_commit();
        uint32_t p[TILE / 16][4];
        state.weigh(p, s, a, sees, j * TILE, lane);
        state.add_values(p, shared.values, lane);
        if (j == last_tile) state.end_split(shared, false);
        else if (j % TILES_PER_SPLIT == TILES_PER_SPLIT - 1) {
            state.end_split(shared, true);
            state.start_split();
        }
    }
    state.write(a, seq, tile, warp, lane);
}

#define ATTENTION_PREFILL_OF(D, PAGE, NAME)                                                          \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 1) NAME(const AttentionArgs a) { \
        EXTERN_SHARED(memory);                                                                       \
        prefill_body<D, PAGE>(a, *(PrefillShared<D>*)memory);                                        \
    }                                                                                                \
    KERNEL_EXPORT(NAME);
#define ATTENTION_PREFILL(D)                              \
    ATTENTION_PREFILL_OF(D, bf16, attention_prefill_d##D) \
    ATTENTION_PREFILL_OF(D, e4m3, attention_prefill_fp8_d##D)
ATTENTION_PREFILL(16)
ATTENTION_PREFILL_OF(24, bf16, attention_prefill_d24)
ATTENTION_PREFILL(32)
ATTENTION_PREFILL(64)
ATTENTION_PREFILL(80)
ATTENTION_PREFILL(96)
ATTENTION_PREFILL(128)
ATTENTION_PREFILL(256)
ATTENTION_PREFILL_OF(512, bf16, attention_prefill_d512)
