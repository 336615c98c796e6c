// Paged decode attention: few queries a sequence, many positions. A fixed number of blocks share a work list that each
// makes for itself, in shared memory, from the lengths on the device (so a CUDA graph needs no number of the host's).
// A unit is 16 packed rows of one sequence and KV head, and either one split (long contexts: so that all multiprocessors
// have work) or all of them. The four warps of a block take 16 tokens each of a tile for the scores, then some channels
// each for the values; the tiles of the block's next unit are loaded behind those of the last.
// The last block to finish a split of a row tile merges its splits, in order. Needs sm_80.
#include "work_list.cuh"

constexpr int DECODE_ROWS = 16;
constexpr int DECODE_STAGES = 2;
constexpr int WEIGHT_STRIDE = TILE + 8;

// Of the work list.
using DecodeWork = WorkShape<DECODE_ROWS, TILE, TILES_PER_SPLIT, ATTENTION_THREADS>;
using DecodeUnit = WorkUnit<DecodeWork>;

// Dynamic shared memory, then the work list; `DECODE_SHARED_BYTES` in cuda.rs.
template <int D> struct DecodeShared {
    struct Stage {
        bf16 queries[DECODE_ROWS * HeadShape<D>::STRIDE];
        bf16 keys[TILE * HeadShape<D>::STRIDE];
        bf16 values[TILE * HeadShape<D>::STRIDE];
    } stage[DECODE_STAGES];
    bf16 weights[DECODE_ROWS * WEIGHT_STRIDE];
    float largest[NUM_WARPS][DECODE_ROWS];
    uint32_t ticket, pad[3];
};

template <int D, class Page>
__device__ __forceinline__ void load_stage(typename DecodeShared<D>::Stage& stage, const AttentionArgs& a, const DecodeUnit& unit) {
    if (unit.tile == unit.first_tile) load_queries<D, DECODE_ROWS>(stage.queries, a, unit.seq, unit.kv_head, unit.row);
    load_tile<D, Page>(stage.keys, stage.values, a, unit.seq, unit.kv_head, unit.tile, unit.first, unit.end);
}

// Floats of a part: the values of 16 rows, then (largest, sum) of each.
template <int D> constexpr int PART_FLOATS = DECODE_ROWS * (D + 2);

// What a warp has of the rows of a unit: all scores' maxima and sums, and the values of 16 channels in every 64.
template <int D> struct DecodeWarp {
    using Shape = HeadShape<D>;
    static constexpr int GROUPS = (Shape::STEPS + NUM_WARPS - 1) / NUM_WARPS;
    uint32_t q[Shape::STEPS][4];
    float o[2 * GROUPS][4], sum[4], largest[2];
    float before[2 * GROUPS][4];  // values of the splits before this one
    Merged merged[2];

    __device__ __forceinline__ static int channel(int n, int warp, int lane) {
        return (warp + NUM_WARPS * (n / 2)) * 16 + n % 2 * 8 + lane % 4 * 2;
    }
    // Whether this warp has channels 2n and 2n + 1 of its own; the same for all its lanes.
    __device__ __forceinline__ static bool has_group(int group, int warp) { return warp + NUM_WARPS * group < Shape::STEPS; }

    // Whether there are its channels n and n + 1; else they are padding.
    __device__ __forceinline__ static bool has_channel(int n, int warp, int lane) {
        return has_group(n / 2, warp) && (D % 16 == 0 || channel(n, warp, lane) < D);
    }

    __device__ __forceinline__ void start_split() {
#pragma unroll
        for (int n = 0; n < 2 * GROUPS; n++)
            for (int k = 0; k < 4; k++) o[n][k] = 0.f;
        for (int k = 0; k < 4; k++) sum[k] = 0.f;
        largest[0] = largest[1] = -INFINITY;
    }
    __device__ __forceinline__ void start_unit(const bf16* queries, int lane) {
#pragma unroll
        for (int step = 0; step < Shape::STEPS; step++) ldmatrix_x4(q[step], operand_a<Shape::STRIDE>(queries + step * 16, lane));
#pragma unroll
        for (int n = 0; n < 2 * GROUPS; n++)
            for (int k = 0; k < 4; k++) before[n][k] = 0.f;
        merged[0] = merged[1] = Merged();
        start_split();
    }

    // One tile: scores of this warp's 16 tokens, the largest of all warps', weights through shared memory, values.
    __device__ __forceinline__ void add_tile(DecodeShared<D>& shared, const typename DecodeShared<D>::Stage& stage,
                                             const AttentionArgs& a, const VisibleRange& sees, int tile, int warp, int lane) {
        float s[2][4], next[2] = {-INFINITY, -INFINITY};
        auto queries = [&](uint32_t (&fragment)[4], int step) {
            for (int k = 0; k < 4; k++) fragment[k] = q[step][k];
        };
        multiply_keys<D, 1>(s, queries, stage.keys + warp * 16 * Shape::STRIDE, lane);
        mask_scores(s, next, a, sees, tile * TILE + warp * 16, lane);
#pragma unroll
        for (int row = 0; row < 2; row++) {
            next[row] = row_max(next[row]);
            if (lane % 4 == 0) shared.largest[warp][lane / 4 + 8 * row] = next[row];
        }
        __syncthreads();
#pragma unroll
        for (int row = 0; row < 2; row++) {
            next[row] = largest[row];
            for (int w = 0; w < NUM_WARPS; w++) next[row] = fmaxf(next[row], shared.largest[w][lane / 4 + 8 * row]);
            const float factor = rescale(largest[row], next[row]);
            largest[row] = next[row];
            sum[2 * row] *= factor;
#pragma unroll
            for (int n = 0; n < 2 * GROUPS; n++) o[n][2 * row] *= factor, o[n][2 * row + 1] *= factor;
#pragma unroll
            for (int n = 0; n < 2; n++) {
                uint32_t* to = (uint32_t*)(shared.weights + (lane / 4 + 8 * row) * WEIGHT_STRIDE + warp * 16 + n * 8);
                to[lane % 4] = pack_bf16(probability(s[n][2 * row], next[row]), probability(s[n][2 * row + 1], next[row]));
            }
        }
        __syncthreads();
        add_values(shared.weights, stage.values, warp, lane);
    }

    __device__ __forceinline__ void add_values(const bf16* weights, const bf16* values, int warp, int lane) {
#pragma unroll
        for (int step = 0; step < TILE / 16; step++) {
            uint32_t p[4];
            ldmatrix_x4(p, operand_a<WEIGHT_STRIDE>(weights + step * 16, lane));
            mma16816(sum, p, ONE_ONE, ONE_ONE);
#pragma unroll
            for (int g = 0; g < GROUPS; g++) {
                if (!has_group(g, warp)) continue;
                uint32_t b[4];
                const int row = step * 16 + lane % 16, column = (warp + NUM_WARPS * g) * 16 + lane / 16 * 8;
                ldmatrix_x4_trans(b, values + row * Shape::STRIDE + column);
                mma16816(o[2 * g], p, b[0], b[1]);
                mma16816(o[2 * g + 1], p, b[2], b[3]);
            }
        }
    }

    __device__ __forceinline__ void end_split() {
        for (int row = 0; row < 2; row++) {
            merged[row].add(largest[row], sum[2 * row]);
#pragma unroll
            for (int n = 0; n < 2 * GROUPS; n++)
                for (int k = 2 * row; k < 2 * row + 2; k++) before[n][k] = merged[row].value(before[n][k], o[n][k]);
        }
    }

    __device__ __forceinline__ void write(const AttentionArgs& a, const DecodeUnit& unit, int warp, int lane) {
        const int group = a.q_heads / a.kv_heads;
        for (int i = 0; i < 2; i++) {
            const int row = unit.row + lane / 4 + 8 * i;
            if (row >= unit.seq.num_queries * group) continue;
            const float factor = merged[i].normalizer(a.sinks, unit.kv_head * group + row % group);
            bf16* out = output_row<D>(a, unit.seq, unit.kv_head, row);
#pragma unroll
            for (int n = 0; n < 2 * GROUPS; n++)
                if (has_channel(n, warp, lane))
                    *(uint32_t*)(out + channel(n, warp, lane)) = pack_bf16(before[n][2 * i] * factor, before[n][2 * i + 1] * factor);
        }
    }

    // The split alone, for whoever merges.
    __device__ __forceinline__ void write_part(const AttentionArgs& a, const DecodeUnit& unit, int warp, int lane) {
        float* part = a.parts + (size_t)unit.part * PART_FLOATS<D>;
        for (int i = 0; i < 2; i++) {
            const int row = lane / 4 + 8 * i;
            if (unit.row + row >= unit.seq.num_queries * (a.q_heads / a.kv_heads)) continue;
#pragma unroll
            for (int n = 0; n < 2 * GROUPS; n++)
                if (has_channel(n, warp, lane))
                    *(float2*)(part + row * D + channel(n, warp, lane)) = make_float2(o[n][2 * i], o[n][2 * i + 1]);
            if (warp == 0 && lane % 4 == 0) *(float2*)(part + DECODE_ROWS * D + 2 * row) = make_float2(largest[i], sum[2 * i]);
        }
    }
};

// Merges the parts of a row tile in the order of splits.
template <int D> __device__ __forceinline__ void merge_parts(const AttentionArgs& a, const DecodeUnit& unit) {
    const int group = a.q_heads / a.kv_heads;
    const int rows = min(DECODE_ROWS, unit.seq.num_queries * group - unit.row);
    const float* parts = a.parts + (size_t)unit.first_part * PART_FLOATS<D>;
    for (int i = threadIdx.x; i < rows * (D / 4); i += ATTENTION_THREADS) {
        const int row = i / (D / 4), channel = i % (D / 4) * 4;
        Merged merged;
        float4 o = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 4
        for (int split = 0; split < unit.splits; split++) {
            const float* part = parts + (size_t)split * PART_FLOATS<D>;
            const float2 state = *(const float2*)(part + DECODE_ROWS * D + 2 * row);
            const float4 value = *(const float4*)(part + row * D + channel);
            merged.add(state.x, state.y);
            o = make_float4(merged.value(o.x, value.x), merged.value(o.y, value.y), merged.value(o.z, value.z), merged.value(o.w, value.w));
        }
        const float factor = merged.normalizer(a.sinks, unit.kv_head * group + (unit.row + row) % group);
        *(uint2*)(output_row<D>(a, unit.seq, unit.kv_head, unit.row + row) + channel) =
            make_uint2(pack_bf16(o.x * factor, o.y * factor), pack_bf16(o.z * factor, o.w * factor));
    }
}

// The end of a unit: its result, or its part and, by the last block to arrive, the merged result.
template <int D>
__device__ __forceinline__ void end_unit(DecodeWarp<D>& state, DecodeShared<D>& shared, const AttentionArgs& a, const DecodeUnit& unit,
                                         int warp, int lane) {
    if (unit.part == NOT_SPLIT) {
        state.write(a, unit, warp, lane);
        return;
    }
    state.write_part(a, unit, warp, lane);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) shared.ticket = atomicAdd(a.arrivals + unit.first_part, 1u);
    __syncthreads();
    if (shared.ticket + 1 != (uint32_t)unit.splits) return;
    __threadfence();
    if (threadIdx.x == 0) a.arrivals[unit.first_part] = 0;  // for the next launch
    merge_parts<D>(a, unit);
}

template <int D, class Page> __device__ __forceinline__ void decode_body(const AttentionArgs& a, unsigned char* memory) {
    DecodeShared<D>& shared = *(DecodeShared<D>*)memory;
    uint32_t* list = (uint32_t*)(memory + sizeof(DecodeShared<D>));
    const WorkList plan = {list, list + a.num_seqs + 1};
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    make_work_list<DecodeWork>(plan, a);
    DecodeUnit unit, ahead;
    unit.find(plan, a, blockIdx.x);
    if (!unit.exists(plan, a)) return;
    ahead = unit;
    load_stage<D, Page>(shared.stage[0], a, ahead);
    cp_async_commit();
    ahead.advance(plan, a);
    DecodeWarp<D> state;
    for (int i = 0; unit.exists(plan, a); i++) {
        auto& stage = shared.stage[i % DECODE_STAGES];
        cp_async_wait<0>();
        widen_tile<D, Page>(stage.keys);
        widen_tile<D, Page>(stage.values);
        __syncthreads();  // the tile is there, and nobody reads the other stage any more
        if (ahead.exists(plan, a)) {
            load_stage<D, Page>(shared.stage[(i + 1) % DECODE_STAGES], a, ahead);
            ahead.advance(plan, a);
        }
        cp_async_commit();
        if (unit.tile == unit.first_tile) state.start_unit(stage.queries, lane);
        const VisibleRange sees(a, unit.seq, unit.row);
        state.add_tile(shared, stage, a, sees, unit.tile, warp, lane);
        const bool is_last = unit.tile == unit.last_tile;
        if (unit.part == NOT_SPLIT && (is_last || unit.tile % TILES_PER_SPLIT == TILES_PER_SPLIT - 1)) {
            state.end_split();
            state.start_split();
        }
        if (is_last) end_unit<D>(state, shared, a, unit, warp, lane);
        unit.advance(plan, a);
    }
}

#define ATTENTION_DECODE_OF(D, PAGE, NAME)                                                           \
    extern "C" __global__ void __launch_bounds__(ATTENTION_THREADS, 1) NAME(const AttentionArgs a) { \
        EXTERN_SHARED(memory);                                                                       \
        decode_body<D, PAGE>(a, memory);                                                             \
    }                                                                                                \
    KERNEL_EXPORT(NAME);
#define ATTENTION_DECODE(D)                              \
    ATTENTION_DECODE_OF(D, bf16, attention_decode_d##D) \
    ATTENTION_DECODE_OF(D, e4m3, attention_decode_fp8_d##D)
ATTENTION_DECODE(16)
ATTENTION_DECODE_OF(24, bf16, attention_decode_d24)
ATTENTION_DECODE(32)
ATTENTION_DECODE(64)
ATTENTION_DECODE(80)
ATTENTION_DECODE(96)
ATTENTION_DECODE(128)
ATTENTION_DECODE(256)
