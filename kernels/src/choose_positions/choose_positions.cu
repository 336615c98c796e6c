// choose_positions: a block a row. The score of the last position that is chosen is found eight bits at a time, from counts
// of all scores' digits; then the positions above it, and as many of those equal to it as are left, are listed in order.
#include "index.cuh"

constexpr int CHOOSE_THREADS = 512, CHOOSE_WARPS = CHOOSE_THREADS / 32;

struct ChooseShared {
    uint32_t bins[256];
    uint32_t digit, left;
    uint32_t of_warp[2][CHOOSE_WARPS];
};

// Numbers that rise as scores do. Adding 0 turns -0 into 0.
__device__ __forceinline__ uint32_t rising(float score) {
    const uint32_t bits = __float_as_uint(score + 0.f);
    return bits >> 31 ? ~bits : bits | 1u << 31;
}

__device__ __forceinline__ uint32_t prefix_sum(uint32_t value, int lane) {
    for (int x = 1; x < 32; x <<= 1) {
        const uint32_t before = __shfl_up_sync(~0u, value, x);
        if (lane >= x) value += before;
    }
    return value;
}

// The highest digit with fewer than `left` scores above it, by the first warp; what is left of `left` there.
__device__ __forceinline__ void find_digit(ChooseShared& shared, uint32_t left, int lane) {
    uint32_t own[8], sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) own[i] = shared.bins[255 - (lane * 8 + i)], sum += own[i];
    uint32_t before = prefix_sum(sum, lane) - sum;
    if (before >= left || before + sum < left) return;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (before < left && before + own[i] >= left) shared.digit = 255 - (lane * 8 + i), shared.left = left - before;
        before += own[i];
    }
}

// The number of the last score that is chosen; `left`: how many of those equal to it are.
__device__ __forceinline__ uint32_t last_chosen(ChooseShared& shared, const float* scores, int count, uint32_t& left) {
    uint32_t prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += CHOOSE_THREADS) shared.bins[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += CHOOSE_THREADS) {
            const uint32_t key = rising(scores[i]);
            if (shift == 24 || (key ^ prefix) >> (shift + 8) == 0) atomicAdd(&shared.bins[key >> shift & 255], 1u);
        }
        __syncthreads();  // all are counted
        if (threadIdx.x < 32) find_digit(shared, left, threadIdx.x);
        __syncthreads();
        prefix |= shared.digit << shift, left = shared.left;
    }
    return prefix;
}

extern "C" __global__ void __launch_bounds__(CHOOSE_THREADS, 2) choose_positions(const ChooseArgs a) {
    __shared__ ChooseShared shared;
    const IndexRow at(a, a.first_row + blockIdx.x);
    uint32_t* out = a.out + (size_t)at.row * a.top_k;
    const int count = at.num_positions, lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    if (count <= a.top_k) {
        for (int i = threadIdx.x; i < count; i += CHOOSE_THREADS) out[i] = i;
        return;
    }
    const float* scores = a.scores + (size_t)blockIdx.x * a.scores_stride;
    uint32_t left = a.top_k;
    const uint32_t last = last_chosen(shared, scores, count, left);
    uint32_t above = 0, equal = 0;  // of the positions before these
    for (int first = 0, turn = 0; first < count; first += CHOOSE_THREADS, turn ^= 1) {
        const int i = first + (int)threadIdx.x;
        const uint32_t key = i < count ? rising(scores[i]) : 0;
        const bool is_above = i < count && key > last, is_equal = i < count && key == last;
        const uint32_t all_above = __ballot_sync(~0u, is_above), all_equal = __ballot_sync(~0u, is_equal);
        // Both counts in one number: a turn has fewer than 2^16 positions.
        if (lane == 0) shared.of_warp[turn][warp] = (uint32_t)__popc(all_above) << 16 | (uint32_t)__popc(all_equal);
        __syncthreads();  // the next turn writes elsewhere
        const uint32_t sums = prefix_sum(lane < CHOOSE_WARPS ? shared.of_warp[turn][lane] : 0, lane);
        const uint32_t before = warp ? __shfl_sync(~0u, sums, warp - 1) : 0, until = __shfl_sync(~0u, sums, 31);
        const uint32_t lower = (1u << lane) - 1;
        const uint32_t above_it = above + (before >> 16) + (uint32_t)__popc(all_above & lower);
        const uint32_t equal_it = equal + (before & 0xFFFF) + (uint32_t)__popc(all_equal & lower);
        if (is_above || (is_equal && equal_it < left)) out[above_it + min(equal_it, left)] = (uint32_t)i;
        above += until >> 16, equal += until & 0xFFFF;
    }
}
KERNEL_EXPORT(choose_positions);
