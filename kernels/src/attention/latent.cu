// Attention over a latent cache (DeepSeek-V2, absorbed): one KV head, whose value is the end of its key. So each position
// is read once, for the scores and for the values. A block has 64 packed rows (all heads of some queries), its 8 warps take
// 16 rows and half of a tile's tokens each for the scores, then some channels of all rows for the values. Decode and prefill
// are the same kernel: blocks share the units of a work list. `attention_to` is it, too, over positions that an indexer chose:
// a unit is then of one query. Splits before the last of a unit lie in memory that each thread has for itself: registers and
// shared memory hold no more. Needs sm_80 and 155 KiB of shared memory for 576 channels.
#include "vectors.cuh"
#include "work_list.cuh"

constexpr int LATENT_ROWS = 64, LATENT_TILE = 32, LATENT_SPLIT_TILES = 16, LATENT_THREADS = 256;
constexpr int LATENT_WARPS = LATENT_THREADS / 32, ROW_GROUPS = LATENT_ROWS / 16, LATENT_STAGES = 2;
constexpr int LATENT_WEIGHT_STRIDE = LATENT_TILE + 8;
constexpr int LATENT_UNITS = 3;  // at work, ahead, and behind that
static_assert(LATENT_WARPS == 2 * ROW_GROUPS, "two warps for 16 rows: a half of the tokens each");

// A key has ROPE channels that rotate, then the RANK ones that are the value. CHOSEN: each query sees chosen positions.
template <int RANK_, int ROPE_, bool CHOSEN_> struct LatentShape {
    using Work = WorkShape<LATENT_ROWS, LATENT_TILE, LATENT_SPLIT_TILES, LATENT_THREADS, CHOSEN_>;
    using Unit = WorkUnit<Work>;
    static_assert(sizeof(Unit) == 72, "as in cuda.rs");
    static_assert(RANK_ % 16 == 0 && ROPE_ % 8 == 0, "mma takes 16 channels, ldmatrix begins at multiples of 8");
    static constexpr int RANK = RANK_, ROPE = ROPE_, D = RANK + ROPE;
    static constexpr bool CHOSEN = CHOSEN_;
    static constexpr int STEPS = (D + 15) / 16;
    static constexpr int STRIDE = STEPS * 16 + 8;  // elements; an odd number of 16 bytes, so ldmatrix meets no bank twice
    static constexpr int GROUPS = (RANK / 16 + LATENT_WARPS - 1) / LATENT_WARPS;  // of 16 value channels that a warp has
    static constexpr int SLOTS = ROW_GROUPS * 2 * GROUPS;  // of four values, for each thread
    static constexpr int VALUE_FLOATS = 4 * SLOTS * LATENT_THREADS;
    // Floats of a part: the values of a split as threads hold them, then (largest, sum) of each row. And what a block has for
    // itself: the values of the splits so far, and those of one split.
    static constexpr int PART_FLOATS = VALUE_FLOATS + 2 * LATENT_ROWS, OWN_FLOATS = 2 * VALUE_FLOATS;
};

// Dynamic shared memory, then the work list; `latent_bytes` in cuda.rs.
template <class Shape> struct LatentShared {
    bf16 queries[LATENT_ROWS * Shape::STRIDE];
    bf16 keys[LATENT_STAGES][LATENT_TILE * Shape::STRIDE];
    bf16 weights[LATENT_ROWS * LATENT_WEIGHT_STRIDE];
    float largest[2][LATENT_ROWS];
    float rescale[LATENT_ROWS];                          // of a tile
    float keep[LATENT_ROWS], take[LATENT_ROWS], normalizer[LATENT_ROWS];  // of a split
    typename Shape::Unit units[LATENT_UNITS];
    uint32_t ticket, pad[3];
};

// Channels behind the last are zeros: nobody writes them later.
template <class Shape> __device__ __forceinline__ void clear_padding(LatentShared<Shape>& shared) {
    constexpr int PADDING = Shape::STEPS * 16 - Shape::D;
    if constexpr (PADDING > 0) {
        static_assert(sizeof(shared.queries) + sizeof(shared.keys) == 2 * (LATENT_ROWS + LATENT_STAGES * LATENT_TILE) * Shape::STRIDE, "");
        bf16* rows = shared.queries;  // and the keys behind them
        for (int i = threadIdx.x; i < (LATENT_ROWS + LATENT_STAGES * LATENT_TILE) * PADDING; i += LATENT_THREADS)
            rows[i / PADDING * Shape::STRIDE + Shape::D + i % PADDING] = bf16{0};
    }
}

template <class Shape>
__device__ __forceinline__ void load_latent_queries(LatentShared<Shape>& shared, const AttentionArgs& a, const typename Shape::Unit& unit) {
    const int num_rows = unit.seq.num_queries * a.q_heads;
    for (int r = threadIdx.x / 8; r < LATENT_ROWS; r += LATENT_THREADS / 8) {
        const int packed = min(unit.row + r, num_rows - 1);
        const bf16* from = a.q + (size_t)(unit.seq.query_start + packed / a.q_heads) * a.q_stride + packed % a.q_heads * Shape::D;
        for (int c = threadIdx.x % 8; c < Shape::D / 8; c += 8) cp_async16(shared.queries + r * Shape::STRIDE + 8 * c, from + 8 * c);
    }
}

// Tokens outside `first..end` are zeros, and nothing is read for them.
template <class Shape> __device__ __forceinline__ void load_latent_tile(bf16* keys, const AttentionArgs& a, const typename Shape::Unit& unit) {
    for (int r = threadIdx.x / 8; r < LATENT_TILE; r += LATENT_THREADS / 8) {
        const int token = unit.tile * LATENT_TILE + r;
        const bool inside = token >= unit.first && token < unit.end;
        size_t at = 0;
        if (inside) {
            const int position = Shape::CHOSEN ? (int)a.chosen[(size_t)unit.seq.query_start * a.top_k + token] : place_of(a, unit.seq, token);
            at = ((size_t)unit.seq.table[position / a.block_size] * a.block_size + position % a.block_size) * Shape::D;
        }
        for (int c = threadIdx.x % 8; c < Shape::D / 8; c += 8) cp_async16(keys + r * Shape::STRIDE + 8 * c, (const bf16*)a.keys + at + 8 * c, inside);
    }
}

// What a warp has of a unit: of the 16 rows of its row group the scores of half a tile, their largest and sum; of all rows
// the values of 16 channels in every 128.
template <class Shape> struct LatentWarp {
    float o[ROW_GROUPS][2 * Shape::GROUPS][4], sum[4], largest[2];
    Merged merged[2];
    static constexpr int SLOTS = Shape::SLOTS;
    int lane, warp, row_group, half;

    __device__ __forceinline__ LatentWarp() {
        lane = threadIdx.x & 31, warp = threadIdx.x >> 5, row_group = warp % ROW_GROUPS, half = warp / ROW_GROUPS;
    }
    __device__ __forceinline__ bool has_group(int group) const {
        return Shape::RANK % (16 * LATENT_WARPS) == 0 || warp + LATENT_WARPS * group < Shape::RANK / 16;
    }
    __device__ __forceinline__ int channel(int n) const { return (warp + LATENT_WARPS * (n / 2)) * 16 + n % 2 * 8 + lane % 4 * 2; }
    // Row i of the two of this thread in row group `group`.
    __device__ __forceinline__ int row(int group, int i) const { return group * 16 + lane / 4 + 8 * i; }

    __device__ __forceinline__ void start_split() {
#pragma unroll
        for (int g = 0; g < ROW_GROUPS; g++)
#pragma unroll
            for (int n = 0; n < 2 * Shape::GROUPS; n++)
#pragma unroll
                for (int k = 0; k < 4; k++) o[g][n][k] = 0.f;
        for (int k = 0; k < 4; k++) sum[k] = 0.f;
        largest[0] = largest[1] = -INFINITY;
    }

    // Of this warp's rows and tokens, masked, and the largest of each row to shared memory.
    __device__ __forceinline__ void scores(float (&s)[2][4], LatentShared<Shape>& shared, const bf16* keys, const AttentionArgs& a,
                                           const typename Shape::Unit& unit) {
#pragma unroll
        for (int k = 0; k < 4; k++) s[0][k] = s[1][k] = 0.f;
        const bf16* queries = operand_a<Shape::STRIDE>(shared.queries + row_group * 16 * Shape::STRIDE, lane);
        const bf16* tokens = keys + (half * 16 + lane % 8 + lane / 16 * 8) * Shape::STRIDE + lane / 8 % 2 * 8;
#pragma unroll 6
        for (int step = 0; step < Shape::STEPS; step++) {
            uint32_t q[4], b[4];
            ldmatrix_x4(q, queries + step * 16);
            ldmatrix_x4(b, tokens + step * 16);
            mma16816(s[0], q, b[0], b[1]);
            mma16816(s[1], q, b[2], b[3]);
        }
        float most[2] = {-INFINITY, -INFINITY};
        const VisibleRange sees(a, unit.seq, unit.row + row_group * 16);
        mask_scores(s, most, a, sees, unit.tile * LATENT_TILE + half * 16, lane);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            most[i] = row_max(most[i]);
            if (lane % 4 == 0) shared.largest[half][row(row_group, i)] = most[i];
        }
    }

    // Scores become weights, in shared memory, with what sums so far are multiplied with.
    __device__ __forceinline__ void weigh(const float (&s)[2][4], LatentShared<Shape>& shared) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int r = row(row_group, i);
            const float next = fmaxf(largest[i], fmaxf(shared.largest[0][r], shared.largest[1][r]));
            const float factor = rescale(largest[i], next);
            largest[i] = next;
            sum[2 * i] *= factor;
            if (half == 0 && lane % 4 == 0) shared.rescale[r] = factor;
            uint32_t* to = (uint32_t*)(shared.weights + r * LATENT_WEIGHT_STRIDE + half * 16);
#pragma unroll
            for (int n = 0; n < 2; n++)
                to[n * 4 + lane % 4] = pack_bf16(probability(s[n][2 * i], next), probability(s[n][2 * i + 1], next));
        }
    }

    __device__ __forceinline__ void load_weights(uint32_t (&p)[4], const LatentShared<Shape>& shared, int group, int step) const {
        ldmatrix_x4(p, operand_a<LATENT_WEIGHT_STRIDE>(shared.weights + group * 16 * LATENT_WEIGHT_STRIDE + step * 16, lane));
    }

    __device__ __forceinline__ void add_values(LatentShared<Shape>& shared, const bf16* keys) {
#pragma unroll
        for (int g = 0; g < ROW_GROUPS; g++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float factor = shared.rescale[row(g, i)];
#pragma unroll
                for (int n = 0; n < 2 * Shape::GROUPS; n++) o[g][n][2 * i] *= factor, o[g][n][2 * i + 1] *= factor;
            }
#pragma unroll
        for (int step = 0; step < LATENT_TILE / 16; step++) {
            uint32_t p[ROW_GROUPS][4];
#pragma unroll
            for (int g = 0; g < ROW_GROUPS; g++) load_weights(p[g], shared, g, step);
            if (half == 0) {
                uint32_t own[4];
                load_weights(own, shared, row_group, step);
                mma16816(sum, own, ONE_ONE, ONE_ONE);
            }
#pragma unroll
            for (int v = 0; v < Shape::GROUPS; v++) {
                if (!has_group(v)) continue;
                uint32_t b[4];
                const int column = Shape::ROPE + (warp + LATENT_WARPS * v) * 16 + lane / 16 * 8;
                ldmatrix_x4_trans(b, keys + (step * 16 + lane % 16) * Shape::STRIDE + column);
#pragma unroll
                for (int g = 0; g < ROW_GROUPS; g++) {
                    mma16816(o[g][2 * v], p[g], b[0], b[1]);
                    mma16816(o[g][2 * v + 1], p[g], b[2], b[3]);
                }
            }
        }
    }

    // Shares the factors that this split is merged with, and what the values are multiplied with if it is the last.
    __device__ __forceinline__ void add_split(LatentShared<Shape>& shared, const AttentionArgs& a, const typename Shape::Unit& unit) {
        if (half == 0) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                merged[i].add(largest[i], sum[2 * i]);
                const int r = row(row_group, i);
                if (lane % 4 != 0) continue;
                shared.keep[r] = merged[i].keep, shared.take[r] = merged[i].take;
                shared.normalizer[r] = merged[i].normalizer(a.sinks, (unit.row + r) % a.q_heads);
            }
        }
        __syncthreads();  // the factors are there
    }

    // The values of a split, each thread's where it alone reads them.
    __device__ __forceinline__ void store_values(float* to) const {
#pragma unroll
        for (int g = 0; g < ROW_GROUPS; g++)
#pragma unroll
            for (int n = 0; n < 2 * Shape::GROUPS; n++)
                store_numbers(to + 4 * ((g * 2 * Shape::GROUPS + n) * LATENT_THREADS + (int)threadIdx.x), o[g][n]);
    }

    // Merges the stored split with those before it; the last one is written out.
    __device__ __forceinline__ void merge_split(LatentShared<Shape>& shared, const AttentionArgs& a, const typename Shape::Unit& unit, float* own) const {
        const bool is_first = unit.tile / LATENT_SPLIT_TILES == unit.first_tile / LATENT_SPLIT_TILES, is_last = unit.tile == unit.last_tile;
#pragma unroll 1
        for (int slot = 0; slot < SLOTS; slot++) {
            const int r = slot_row(slot);
            float before[4] = {0.f, 0.f, 0.f, 0.f}, values[4], *carried = own + 4 * (slot * LATENT_THREADS + (int)threadIdx.x);
            if (!is_first) load_numbers(before, (const float*)carried);
            load_numbers(values, (const float*)(carried + Shape::VALUE_FLOATS));
#pragma unroll
            for (int k = 0; k < 4; k++)
                values[k] = __fmaf_rn(before[k], shared.keep[r + k / 2 * 8], __fmul_rn(values[k], shared.take[r + k / 2 * 8]));
            if (is_last) write_slot(a, unit, slot, values, shared.normalizer[r], shared.normalizer[r + 8]);
            else store_numbers(carried, values);
        }
    }

    // Merges the parts of a row tile in the order of splits, each thread the values of its own place.
    __device__ __forceinline__ void merge_parts(const float* parts, const AttentionArgs& a, const typename Shape::Unit& unit) const {
        const float* first = parts + (size_t)unit.first_part * Shape::PART_FLOATS;
#pragma unroll 1
        for (int slot = 0; slot < SLOTS; slot++) {
            Merged of_row[2];
            float values[4] = {0.f, 0.f, 0.f, 0.f};
            for (int split = 0; split < unit.splits; split++) {
                const float* part = first + (size_t)split * Shape::PART_FLOATS;
                float split_values[4];
                load_numbers(split_values, part + 4 * (slot * LATENT_THREADS + (int)threadIdx.x));
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const float2 state = *(const float2*)(part + Shape::VALUE_FLOATS + 2 * (slot_row(slot) + 8 * i));
                    of_row[i].add(state.x, state.y);
                    for (int k = 2 * i; k < 2 * i + 2; k++) values[k] = of_row[i].value(values[k], split_values[k]);
                }
            }
            const int head = unit.row + slot_row(slot);
            write_slot(a, unit, slot, values, of_row[0].normalizer(a.sinks, head % a.q_heads), of_row[1].normalizer(a.sinks, (head + 8) % a.q_heads));
        }
    }

    // The first of the two rows of a slot.
    __device__ __forceinline__ int slot_row(int slot) const { return row(slot / (2 * Shape::GROUPS), 0); }

    __device__ __forceinline__ void write_slot(const AttentionArgs& a, const typename Shape::Unit& unit, int slot, const float (&values)[4], float first,
                                               float second) const {
        const int n = slot % (2 * Shape::GROUPS);
        if (!has_group(n / 2)) return;
        write(a, unit, slot_row(slot), channel(n), values[0] * first, values[1] * first);
        write(a, unit, slot_row(slot) + 8, channel(n), values[2] * second, values[3] * second);
    }

    // Two neighbours of a row, if there is that row.
    __device__ __forceinline__ void write(const AttentionArgs& a, const typename Shape::Unit& unit, int r, int channel, float x, float y) const {
        if (unit.row + r >= unit.seq.num_queries * a.q_heads) return;
        *(uint32_t*)(output_row<Shape::D>(a, unit.seq, 0, unit.row + r) + Shape::ROPE + channel) = pack_bf16(x, y);
    }

    // Of a unit that has one split: merged with nothing, values are as they are.
    __device__ __forceinline__ void write_all(const LatentShared<Shape>& shared, const AttentionArgs& a, const typename Shape::Unit& unit) const {
#pragma unroll
        for (int g = 0; g < ROW_GROUPS; g++)
#pragma unroll
            for (int n = 0; n < 2 * Shape::GROUPS; n++)
                write_slot(a, unit, g * 2 * Shape::GROUPS + n, o[g][n], shared.normalizer[row(g, 0)], shared.normalizer[row(g, 1)]);
    }

    // Largest score and sum of a split, behind its values.
    __device__ __forceinline__ void store_states(float* part) const {
        if (half == 0 && lane % 4 == 0)
#pragma unroll
            for (int i = 0; i < 2; i++)
                *(float2*)(part + Shape::VALUE_FLOATS + 2 * row(row_group, i)) = make_float2(largest[i], sum[2 * i]);
    }
};

// All parts of this block are written; of each row tile the last block to come here merges. (At the end of all units: while
// values are in registers there is no room for it.)
template <class Shape>
__device__ __forceinline__ void end_parts(const LatentWarp<Shape>& state, LatentShared<Shape>& shared, const float* parts, const WorkList& plan,
                                          const AttentionArgs& a) {
    __threadfence();
    typename Shape::Unit unit;
    for (unit.find(plan, a, blockIdx.x); unit.exists(plan, a); unit.find(plan, a, unit.index + gridDim.x)) {
        if (unit.part == NOT_SPLIT) continue;
        __syncthreads();  // everybody's parts are written, and the last ticket is read
        if (threadIdx.x == 0) shared.ticket = atomicAdd(a.arrivals + unit.first_part, 1u);
        __syncthreads();
        if (shared.ticket + 1 != (uint32_t)unit.splits) continue;
        __threadfence();
        if (threadIdx.x == 0) a.arrivals[unit.first_part] = 0;  // for the next launch
        state.merge_parts(parts, a, unit);
    }
}

// The end of a split, and of a unit with its last tile.
template <class Shape>
__device__ __forceinline__ void end_tiles(LatentWarp<Shape>& state, LatentShared<Shape>& shared, float* own, float* parts,
                                          const AttentionArgs& a, const typename Shape::Unit& unit) {
    const bool is_last = unit.tile == unit.last_tile;
    const bool is_split = unit.part != NOT_SPLIT;
    if (!is_split) state.add_split(shared, a, unit);
    if (!is_split && unit.first_tile / LATENT_SPLIT_TILES == unit.last_tile / LATENT_SPLIT_TILES) {
        state.write_all(shared, a, unit);
    } else {
        float* part = parts + (size_t)(is_split ? unit.part : 0) * Shape::PART_FLOATS;
        state.store_values(is_split ? part : own + Shape::VALUE_FLOATS);
        if (is_split) state.store_states(part);
        else state.merge_split(shared, a, unit, own);
    }
    if (is_last) state.merged[0] = state.merged[1] = Merged();
    state.start_split();
}

template <class Shape> __device__ __forceinline__ void latent_body(const AttentionArgs& a, unsigned char* memory) {
    LatentShared<Shape>& shared = *(LatentShared<Shape>*)memory;
    uint32_t* list = (uint32_t*)(memory + sizeof(LatentShared<Shape>));
    const WorkList plan = {list, list + a.num_seqs + 1};
    float* own = a.parts + (size_t)blockIdx.x * Shape::OWN_FLOATS;
    float* parts = a.parts + (size_t)gridDim.x * Shape::OWN_FLOATS;
    make_work_list<typename Shape::Work>(plan, a);
    if (threadIdx.x == 0) {
        shared.units[0].find(plan, a, blockIdx.x);
        shared.units[1] = shared.units[0];
        if (shared.units[0].exists(plan, a)) shared.units[1].advance(plan, a);
    }
    __syncthreads();
    if (!shared.units[0].exists(plan, a)) return;
    clear_padding(shared);
    load_latent_queries(shared, a, shared.units[0]);
    load_latent_tile<Shape>(shared.keys[0], a, shared.units[0]);
    cp_async_commit();
    LatentWarp<Shape> state;
    state.start_split();
    for (int i = 0; shared.units[i % LATENT_UNITS].exists(plan, a); i++) {
        const typename Shape::Unit &unit = shared.units[i % LATENT_UNITS], &ahead = shared.units[(i + 1) % LATENT_UNITS];
        bf16* keys = shared.keys[i % LATENT_STAGES];
        cp_async_wait<0>();
        __syncthreads();  // the tile is there, and nobody reads the other stage any more
        const bool loads = ahead.exists(plan, a);
        if (loads) load_latent_tile<Shape>(shared.keys[(i + 1) % LATENT_STAGES], a, ahead);
        float s[2][4];
        state.scores(s, shared, keys, a, unit);
        __syncthreads();  // the largest scores are there, and nobody reads the queries any more
        if (loads && unit.tile == unit.last_tile) load_latent_queries(shared, a, ahead);
        cp_async_commit();
        if (threadIdx.x == 0) {
            typename Shape::Unit& behind = shared.units[(i + 2) % LATENT_UNITS];
            behind = ahead;
            if (loads) behind.advance(plan, a);
        }
        state.weigh(s, shared);
        __syncthreads();  // the weights are there
        state.add_values(shared, keys);
        if (unit.ends_split()) end_tiles(state, shared, own, parts, a, unit);
    }
    end_parts(state, shared, parts, plan, a);
}

#define ATTENTION_LATENT(name, RANK, ROPE, CHOSEN)                                                                        \
    extern "C" __global__ void __launch_bounds__(LATENT_THREADS, 1) name##_##RANK##_##ROPE(const AttentionArgs a) {       \
        EXTERN_SHARED(memory);                                                                                            \
        latent_body<LatentShape<RANK, ROPE, CHOSEN>>(a, memory);                                                          \
    }                                                                                                                     \
    KERNEL_EXPORT(name##_##RANK##_##ROPE)

ATTENTION_LATENT(attention_latent, 32, 8, false);
ATTENTION_LATENT(attention_latent, 256, 64, false);
ATTENTION_LATENT(attention_latent, 512, 64, false);
ATTENTION_LATENT(attention_to, 32, 8, true);
ATTENTION_LATENT(attention_to, 512, 64, true);
