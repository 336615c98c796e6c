// Kernels for quantized weights, one skeleton for all formats: a format is its codes (codes.cuh) and its scales
// (scales.cuh), and one small file.
//
// Few rows (`linear_<format>_8`, `_16`, and `expert_linear_` of an expert's): a block has 16 features, its warps take turns at 256 weights; codes go straight
// from memory into operand A of mma.sync, rows of x are operand B. Of each group the products of whole codes are added
// first, then scaled in f32: no weight is rounded. Minima multiply the sum of x, which is one more mma with ones.
// Many rows of an expert: `many_rows.cuh`; of one weight: `dequantize_<format>` writes bf16 for cuBLASLt. `embedding_<format>` gathers single rows.
#pragma once
#include "codes.cuh"
#include "many_rows.cuh"
#include "scales.cuh"

template <class CodesOf, class ScalesOf>
struct QuantizedFormat {
    using Codes = CodesOf;
    using Scales = ScalesOf;

    // The codes of block `block` of a feature tile, and its record of scales number `record`.
    __device__ __forceinline__ static const uint8_t* codes_at(const LinearArgs& a, int tile, int block) {
        const int blocks = (a.in_features + BLOCK_WEIGHTS - 1) / BLOCK_WEIGHTS;
        return a.weight + ((size_t)tile * blocks + block) * Codes::BYTES;
    }
    __device__ __forceinline__ static const uint8_t* scales_at(const LinearArgs& a, int tile, int record) {
        const int records = (a.in_features + SCALE_WEIGHTS - 1) / SCALE_WEIGHTS;
        return a.scales + ((size_t)tile * records + record) * Scales::BYTES;
    }
};

constexpr int RECORD_BLOCKS = SCALE_WEIGHTS / BLOCK_WEIGHTS;

// Adds one group: `total += scale · (codes · x) + minimum · sum of x`.
template <class Format, int TILES, class Rows>
__device__ __forceinline__ void add_group(float (&total)[TILES][4], const Rows& rows, const typename Format::Codes& codes,
                                          const typename Format::Scales (&scales)[2], int group, int step, int k) {
    constexpr int STEPS = Format::Scales::GROUP / 16;
    const int lane = threadIdx.x & 31;
    const uint32_t ones[4] = {0x3F803F80u, 0x3F803F80u, 0x3F803F80u, 0x3F803F80u};
    float product[TILES][4] = {}, sum[TILES][4] = {};
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        uint32_t operand[4];
        codes.operand(operand, step + s);
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            const uint2 x = rows.four(t, k + s * 16 + lane % 4 * 4);
            mma16816(product[t], operand, x.x, x.y);
            if constexpr (Format::Scales::HAS_MINIMUM) mma16816(sum[t], ones, x.x, x.y);
        }
    }
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if constexpr (Format::Scales::HAS_MINIMUM) total[t][i] = __fmaf_rn(scales[i / 2].minimum(group), sum[t][i], total[t][i]);
            total[t][i] = __fmaf_rn(scales[i / 2].scale(group), product[t][i], total[t][i]);
        }
}

// What a lane has of 16 features x 256 weights.
template <class Format>
struct Record {
    typename Format::Codes codes[RECORD_BLOCKS];
    typename Format::Scales scales[2];

    __device__ __forceinline__ void load(const LinearArgs& a, int tile, int record) {
        const int lane = threadIdx.x & 31;
#pragma unroll
        for (int b = 0; b < RECORD_BLOCKS; b++)
            if (record * SCALE_WEIGHTS + b * BLOCK_WEIGHTS < a.in_features)
                codes[b].load(Format::codes_at(a, tile, record * RECORD_BLOCKS + b), lane);
        for (int i = 0; i < 2; i++) scales[i].load(Format::scales_at(a, tile, record), lane / 4 + 8 * i);
    }

    // Adds the products with rows of x, in which the record begins at `first` and all weights end at `end`.
    template <int TILES, class Rows>
    __device__ __forceinline__ void add(float (&total)[TILES][4], const Rows& x, int first, int end) const {
        constexpr int GROUP = Format::Scales::GROUP;
#pragma unroll
        for (int b = 0; b < RECORD_BLOCKS; b++) {
            const int k = first + b * BLOCK_WEIGHTS;
            if (k >= end) break;
#pragma unroll
            for (int g = 0; g < BLOCK_WEIGHTS / GROUP; g++)
                add_group<Format>(total, x, codes[b], scales, b * BLOCK_WEIGHTS / GROUP + g, g * GROUP / 16, k + g * GROUP);
        }
    }
};

// Features of tile `tile` x rows `x`, which are those from `first_row` on.
template <class Format, int TILES>
__device__ __forceinline__ void few_rows(const LinearArgs& a, const LaneRows<TILES>& x, int tile, int first_row) {
    float total[TILES][4] = {};
    for (int record = threadIdx.x >> 5; record * SCALE_WEIGHTS < a.in_features; record += LINEAR_WARPS) {
        Record<Format> weights;
        weights.load(a, tile, record);
        weights.add(total, x, record * SCALE_WEIGHTS, a.in_features);
    }
    reduce_and_write<TILES>(a, total, tile * TILE_FEATURES, first_row);
}

template <class Format, int TILES>
__device__ __forceinline__ void linear_rows(const LinearArgs& a) {
    const int first_row = blockIdx.y * 8 * TILES;
    few_rows<Format>(a, take_rows<TILES>(a, first_row), blockIdx.x, first_row);
}

template <class Format, int TILES>
__device__ __forceinline__ void expert_rows(LinearArgs a, const ExpertArgs& e) {
    const int first_place = take_expert(a, e);
    if (first_place < 0) return;
    few_rows<Format>(a, take_places<TILES>(a, e, first_place), blockIdx.y, first_place);
}

// As `Record`, for `many_rows`: lanes read 8 bytes of x at once.
template <class Format>
struct StagedRecord : Record<Format> {
    static constexpr int PAD_BYTES = 32;
    __device__ __forceinline__ void start(const LinearArgs& a, int tile, int record) { this->load(a, tile, record); }

    // Half of the rows after the other where registers would not hold the sums of all.
    template <class Rows>
    __device__ __forceinline__ void add(float (&total)[MANY_TILES][4], const Rows& x, int first, int end) const {
        constexpr int HALF = MANY_TILES / 2;
        if constexpr (Format::Scales::HAS_MINIMUM && Format::Scales::GROUP == 16) {
            Record<Format>::add((float(&)[HALF][4])total[0], x, first, end);
            __syncwarp();  // nothing of the second half is loaded during the first
            Record<Format>::add((float(&)[HALF][4])total[HALF], x.behind(HALF), first, end);
        } else {
            Record<Format>::add(total, x, first, end);
        }
    }
};

// Two weights from their codes.
template <class Scales>
__device__ __forceinline__ float2 weights_of(uint32_t codes, const Scales& scales, int group, float factor) {
    const float scale = scales.scale(group), minimum = scales.minimum(group);
    return make_float2(__fmaf_rn(lo2f(codes), scale, minimum) * factor, __fmaf_rn(hi2f(codes), scale, minimum) * factor);
}

// out: bf16 [out_features, out_stride]. A warp has a record of scales.
template <class Format>
__device__ __forceinline__ void dequantize(const LinearArgs& a) {
    const int lane = threadIdx.x & 31, tile = blockIdx.x, record = blockIdx.y * LINEAR_WARPS + (threadIdx.x >> 5);
    if (record * SCALE_WEIGHTS >= a.in_features) return;
    typename Format::Scales scales[2];
    for (int i = 0; i < 2; i++) scales[i].load(Format::scales_at(a, tile, record), lane / 4 + 8 * i);
#pragma unroll
    for (int b = 0; b < RECORD_BLOCKS; b++) {
        const int block_start = record * SCALE_WEIGHTS + b * BLOCK_WEIGHTS;
        if (block_start >= a.in_features) break;
        typename Format::Codes codes;
        codes.load(Format::codes_at(a, tile, record * RECORD_BLOCKS + b), lane);
#pragma unroll
        for (int step = 0; step < BLOCK_STEPS; step++) {
            uint32_t operand[4];
            codes.operand(operand, step);
            const int k = block_start + step * 16 + lane % 4 * 4, group = (b * BLOCK_WEIGHTS + step * 16) / Format::Scales::GROUP;
            for (int i = 0; i < 2; i++) {
                const int feature = tile * TILE_FEATURES + lane / 4 + 8 * i;
                if (feature >= a.out_features || k >= a.in_features) continue;
                const float2 first = weights_of(operand[i], scales[i], group, a.factor);
                const float2 second = weights_of(operand[i + 2], scales[i], group, a.factor);
                *(uint2*)((bf16*)a.out + (size_t)feature * a.out_stride + k) =
                    make_uint2(pack_bf16(first.x, first.y), pack_bf16(second.x, second.y));
            }
        }
    }
}

// Row `ids[blockIdx.x]` of the table, whose part here begins at row `first`, into row blockIdx.x of `out` (f32). A thread
// has a quarter of a record: of each step the weights of one lane.
template <class Format>
__device__ __forceinline__ void embed(const LinearArgs& a, const uint32_t* ids, int first) {
    const int feature = (int)ids[blockIdx.x] - first, tile = feature / TILE_FEATURES, row = feature % TILE_FEATURES;
    if (feature < 0 || feature >= a.out_features) return pass_over(a);
    float* out = (float*)a.out + (size_t)blockIdx.x * a.out_stride;
    for (int i = threadIdx.x; i / 4 * SCALE_WEIGHTS < a.in_features; i += blockDim.x) {
        const int record = i / 4, lane = row % 8 * 4 + i % 4;
        typename Format::Scales scales;
        scales.load(Format::scales_at(a, tile, record), row);
#pragma unroll
        for (int b = 0; b < RECORD_BLOCKS; b++) {
            const int block = record * RECORD_BLOCKS + b;
            if (block * BLOCK_WEIGHTS >= a.in_features) break;
            typename Format::Codes codes;
            codes.load(Format::codes_at(a, tile, block), lane);
#pragma unroll
            for (int step = 0; step < BLOCK_STEPS; step++) {
                const int k = block * BLOCK_WEIGHTS + step * 16 + i % 4 * 4;
                if (k >= a.in_features) break;
                uint32_t operand[4];
                codes.operand(operand, step);
                const int group = (b * BLOCK_WEIGHTS + step * 16) / Format::Scales::GROUP;
                const float2 low = weights_of(row < 8 ? operand[0] : operand[1], scales, group, a.factor);
                const float2 high = weights_of(row < 8 ? operand[2] : operand[3], scales, group, a.factor);
                out[k] = low.x, out[k + 1] = low.y, out[k + 2] = high.x, out[k + 3] = high.y;
            }
        }
    }
}

#define LINEAR_KERNELS(name, ...)                                                                                                   \
    using Format_##name = QuantizedFormat<__VA_ARGS__>;                                                                             \
    extern "C" __global__ void __launch_bounds__(LINEAR_THREADS, 2) linear_##name##_8(const LinearArgs a) { linear_rows<Format_##name, 1>(a); } \
    extern "C" __global__ void __launch_bounds__(LINEAR_THREADS, 2) linear_##name##_16(const LinearArgs a) { linear_rows<Format_##name, 2>(a); } \
    extern "C" __global__ void __launch_bounds__(LINEAR_THREADS, 2) expert_linear_##name##_8(const LinearArgs a, const ExpertArgs e) { \
        expert_rows<Format_##name, 1>(a, e);                                                                                        \
    }                                                                                                                               \
    extern "C" __global__ void __launch_bounds__(LINEAR_THREADS, 2) expert_linear_##name##_16(const LinearArgs a, const ExpertArgs e) { \
        expert_rows<Format_##name, 2>(a, e);                                                                                        \
    }                                                                                                                               \
    extern "C" __global__ void __launch_bounds__(LINEAR_THREADS, 1) expert_linear_##name##_64(const LinearArgs a, const ExpertArgs e) { \
        many_rows<StagedRecord<Format_##name>>(a, e);                                                                               \
    }                                                                                                                               \
    extern "C" __global__ void __launch_bounds__(LINEAR_THREADS) dequantize_##name(const LinearArgs a) { dequantize<Format_##name>(a); } \
    extern "C" __global__ void __launch_bounds__(LINEAR_THREADS) embedding_##name(const LinearArgs a, const uint32_t* ids, int first) { \
        embed<Format_##name>(a, ids, first);                                                                                        \
    }                                                                                                                               \
    KERNEL_EXPORT(linear_##name##_8);                                                                                               \
    KERNEL_EXPORT(linear_##name##_16);                                                                                              \
    KERNEL_EXPORT(expert_linear_##name##_8);                                                                                        \
    KERNEL_EXPORT(expert_linear_##name##_16);                                                                                       \
    KERNEL_EXPORT(expert_linear_##name##_64);                                                                                       \
    KERNEL_EXPORT(dequantize_##name);                                                                                               \
    KERNEL_EXPORT(embedding_##name)
