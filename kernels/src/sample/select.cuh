// Selection in a row without sorting it: the k likeliest tokens, the shortest prefix that weighs enough, and the token at a
// given place of the cumulative weights. All sums are of whole numbers, so they do not depend on the order of threads.
#pragma once
#include "weights.cuh"

constexpr int SAMPLE_THREADS = 1024;
constexpr int SAMPLE_WARPS = SAMPLE_THREADS / 32;
constexpr int LIST_SIZE = 2048;

struct SampleShared {
    uint64_t of_warp[SAMPLE_WARPS];
    uint64_t result[2];
    uint32_t low[256], high[256];  // sums of 64 bits in two halves: atomics of 32 bits are native
    uint64_t list[LIST_SIZE];      // keys
    uint32_t list_size;
};

// One value of all threads', given to each.
template <class Combine>
__device__ __forceinline__ uint64_t block_reduce(SampleShared& shared, uint64_t value, Combine combine) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    for (int x = 16; x; x >>= 1) value = combine(value, __shfl_xor_sync(~0u, value, x));
    if (lane == 0) shared.of_warp[warp] = value;
    __syncthreads();
    value = shared.of_warp[lane];
    for (int x = 16; x; x >>= 1) value = combine(value, __shfl_xor_sync(~0u, value, x));
    __syncthreads();
    return value;
}
__device__ __forceinline__ uint64_t block_sum(SampleShared& shared, uint64_t value) {
    return block_reduce(shared, value, [](uint64_t a, uint64_t b) { return a + b; });
}
__device__ __forceinline__ uint64_t block_min(SampleShared& shared, uint64_t value) {
    return block_reduce(shared, value, [](uint64_t a, uint64_t b) { return a < b ? a : b; });
}

__device__ __forceinline__ uint64_t warp_prefix(uint64_t value, int lane) {
    for (int x = 1; x < 32; x <<= 1) {
        const uint64_t before = __shfl_up_sync(~0u, value, x);
        if (lane >= x) value += before;
    }
    return value;
}

__device__ __forceinline__ void clear_bins(SampleShared& shared) {
    for (int i = threadIdx.x; i < 256; i += SAMPLE_THREADS) shared.low[i] = shared.high[i] = 0;
    __syncthreads();
}

__device__ __forceinline__ void add_to_bin(SampleShared& shared, int bin, uint64_t value) {
    if (value == 0) return;
    const uint32_t low = (uint32_t)value, before = atomicAdd(&shared.low[bin], low);
    const uint32_t high = (uint32_t)(value >> 32) + (before + low < before ? 1u : 0u);
    if (high) atomicAdd(&shared.high[bin], high);
}

__device__ __forceinline__ uint64_t bin_sum(const SampleShared& shared, int bin) {
    return (uint64_t)shared.high[bin] << 32 | shared.low[bin];
}

// The first bin at which the running sum reaches `target`, which becomes what is left of it there. The target must lie in
// 1 ..= sum of all bins.
__device__ __forceinline__ int find_bin(SampleShared& shared, uint64_t& target) {
    const int lane = threadIdx.x & 31;
    __syncthreads();
    if (threadIdx.x < 32) {
        uint64_t sum = 0;
        for (int i = 0; i < 8; i++) sum += bin_sum(shared, lane * 8 + i);
        const uint64_t end = warp_prefix(sum, lane);
        if (end >= target && end - sum < target) {
            uint64_t left = target - (end - sum);
            int bin = lane * 8;
            while (bin_sum(shared, bin) < left) left -= bin_sum(shared, bin++);
            shared.result[0] = bin, shared.result[1] = left;
        }
    }
    __syncthreads();
    const int bin = (int)shared.result[0];
    target = shared.result[1];
    __syncthreads();
    return bin;
}

// What a token adds: its weight, or 1.
template <bool BY_WEIGHT>
__device__ __forceinline__ uint64_t amount_of(const TokenRow& row, float logit) {
    if constexpr (BY_WEIGHT) return weight_of(row, logit);
    else return 1;
}

__device__ __forceinline__ float logit_of_key(uint64_t key) {
    const uint32_t descending = (uint32_t)(key >> 32);
    return __uint_as_float(descending >> 31 ? descending : ~descending & 0x7FFFFFFFu);
}

// Fills the bins with the next eight bits of the keys that agree with `prefix` above them. `in_list`: the keys in question
// are listed; else they are the row's in bucket `bucket`.
template <bool BY_WEIGHT>
__device__ __forceinline__ void count_digits(SampleShared& shared, const TokenRow& row, int bucket, bool in_list, uint64_t prefix,
                                             int shift) {
    const auto add = [&](uint64_t key, float logit) {
        if (shift + 8 == 64 || (key ^ prefix) >> (shift + 8) == 0)
            add_to_bin(shared, (int)(key >> shift & 255), amount_of<BY_WEIGHT>(row, logit));
    };
    if (in_list) {
        for (uint32_t i = threadIdx.x; i < shared.list_size; i += SAMPLE_THREADS) add(shared.list[i], logit_of_key(shared.list[i]));
        return;
    }
    for (int token = threadIdx.x; token < row.size; token += SAMPLE_THREADS) {
        const float logit = row.logits[token];
        if (is_kept(row, logit, token) && bucket_of(row, logit) == bucket) add(token_key(logit, token), logit);
    }
}

// The key of the last token of the shortest prefix, in the order of tokens, whose amounts reach `target`; `target` sees
// the sum of all amounts first. Buckets of the exponent come first (bits of floats are too unevenly used), then the bits
// of the keys, eight at a time, of the tokens in the bucket that decides.
template <bool BY_WEIGHT, class Target>
__device__ __forceinline__ uint64_t prefix_end(SampleShared& shared, const TokenRow& row, Target target_of) {
    if (threadIdx.x == 0) shared.list_size = 0;
    clear_bins(shared);
    uint64_t all = 0;
    for (int token = threadIdx.x; token < row.size; token += SAMPLE_THREADS) {
        const float logit = row.logits[token];
        if (!is_kept(row, logit, token)) continue;
        const uint64_t amount = amount_of<BY_WEIGHT>(row, logit);
        all += amount;
        add_to_bin(shared, bucket_of(row, logit), amount);
    }
    all = block_sum(shared, all);
    uint64_t target = target_of(all);
    if (target > all) return row.cutoff;
    const int bucket = find_bin(shared, target);
    for (int token = threadIdx.x; token < row.size; token += SAMPLE_THREADS) {
        const float logit = row.logits[token];
        if (!is_kept(row, logit, token) || bucket_of(row, logit) != bucket) continue;
        const uint32_t place = atomicAdd(&shared.list_size, 1u);
        if (place < LIST_SIZE) shared.list[place] = token_key(logit, token);
    }
    __syncthreads();
    const bool in_list = shared.list_size <= LIST_SIZE;
    uint64_t prefix = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        if (shift == 24) continue;  // of ids only 24 bits are used
        clear_bins(shared);
        count_digits<BY_WEIGHT>(shared, row, bucket, in_list, prefix, shift);
        prefix |= (uint64_t)find_bin(shared, target) << shift;
    }
    return prefix;
}

// The first token, by id, at which the running sum of weights exceeds `target`, which must be below their sum. Each round
// leaves one of 32 parts of the range.
__device__ __forceinline__ int token_at(SampleShared& shared, const TokenRow& row, uint64_t target) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    int begin = 0, end = row.size;
    while (end - begin > 1) {
        const int part = (end - begin + SAMPLE_WARPS - 1) / SAMPLE_WARPS;
        const int first = min(begin + warp * part, end), last = min(first + part, end);
        uint64_t sum = 0;
        for (int token = first + lane; token < last; token += 32) sum += kept_weight(row, token);
        for (int x = 16; x; x >>= 1) sum += __shfl_xor_sync(~0u, sum, x);
        if (lane == 0) shared.of_warp[warp] = sum;
        __syncthreads();
        if (warp == 0) {
            const uint64_t own = shared.of_warp[lane], until = warp_prefix(own, lane);
            if (until > target && until - own <= target) shared.result[0] = lane, shared.result[1] = target - (until - own);
        }
        __syncthreads();
        begin += (int)shared.result[0] * part;
        end = min(begin + part, end);
        target = shared.result[1];
        __syncthreads();
    }
    return begin;
}
