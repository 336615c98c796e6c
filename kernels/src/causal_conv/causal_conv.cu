// causal_conv: a short convolution of each channel over its last tokens, then SiLU. A thread has N channels.
//
// Rows that see only inputs of this step are divided among blocks of ROWS rows. The first rows of each sequence, which see
// its state, belong to a block of their own, which also writes the states: so nobody reads a state that another writes.
#include "states.cuh"
#include "vectors.cuh"

constexpr int ROWS = 16;

struct CausalConv {
    bf16* out;
    const bf16* x;
    const float* weight;  // [taps][channels]
    float* states;        // [slot][taps - 1][channels]
    StateBatch batch;
    int channels, taps, out_stride, x_stride;
};

// Of N channels the weights and the last inputs, the oldest first; taps that there are not have weights and inputs of 0.
template <int TAPS, int N> struct Window {
    float weight[TAPS][N], past[TAPS - 1][N];

    __device__ __forceinline__ Window(const CausalConv& a, int channel) {
#pragma unroll
        for (int i = 0; i < TAPS; i++) {
            const int tap = i - (TAPS - a.taps);
#pragma unroll
            for (int n = 0; n < N; n++) weight[i][n] = 0.f;
            if (tap >= 0) load_numbers(weight[i], a.weight + (size_t)tap * a.channels + channel);
        }
        forget();
    }
    __device__ __forceinline__ void forget() {
#pragma unroll
        for (int i = 0; i < TAPS - 1; i++)
#pragma unroll
            for (int n = 0; n < N; n++) past[i][n] = 0.f;
    }
    __device__ __forceinline__ void push(const float (&x)[N]) {
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < TAPS - 2; i++) past[i][n] = past[i + 1][n];
            past[TAPS - 2][n] = x[n];
        }
    }
    __device__ __forceinline__ void write(const CausalConv& a, int row, int channel, const float (&x)[N]) const {
        float y[N];
#pragma unroll
        for (int n = 0; n < N; n++) {
            float sum = 0.f;
#pragma unroll
            for (int i = 0; i < TAPS - 1; i++) sum = __fmaf_rn(past[i][n], weight[i][n], sum);
            sum = __fmaf_rn(x[n], weight[TAPS - 1][n], sum);
            y[n] = sum / (1.0f + __expf(-sum));
        }
        store_numbers(a.out + (size_t)row * a.out_stride + channel, y);
    }
    // Input number `old` of a state is this one's; inputs of before the first are 0.
    __device__ __forceinline__ void load_state(const CausalConv& a, uint32_t slot, int channel) {
        if (slot == NO_STATE) return;
#pragma unroll
        for (int i = 0; i < TAPS - 1; i++) {
            const int old = i - (TAPS - a.taps);
            if (old >= 0) load_numbers(past[i], a.states + ((size_t)slot * (a.taps - 1) + old) * a.channels + channel);
        }
    }
};

template <int N>
__device__ __forceinline__ void load_x(float (&x)[N], const CausalConv& a, int row, int channel) {
    load_numbers(x, a.x + (size_t)row * a.x_stride + channel);
}

// The state at the end of a segment: inputs of this sequence, or of its first state where it has fewer.
template <int TAPS, int N>
__device__ __forceinline__ void write_state(const CausalConv& a, const float (&before)[TAPS - 1][N], uint32_t slot, int begin, int end,
                                            int channel) {
#pragma unroll
    for (int i = 0; i < TAPS - 1; i++) {
        const int old = i - (TAPS - a.taps), row = end - (TAPS - 1) + i;
        if (old < 0) continue;
        float input[N];
        if (row >= begin) {
            load_x(input, a, row, channel);
        } else {
#pragma unroll
            for (int j = 0; j < TAPS - 1; j++)
#pragma unroll
                for (int n = 0; n < N; n++) input[n] = j == i + end - begin ? before[j][n] : j ? input[n] : 0.f;
        }
        store_numbers(a.states + ((size_t)slot * (a.taps - 1) + old) * a.channels + channel, input);
    }
}

// The first rows of a sequence, and its states.
template <int TAPS, int N>
__device__ __forceinline__ void run_sequence(const CausalConv& a, int seq, int channel) {
    const uint32_t first = a.batch.start_loc[seq], last = a.batch.start_loc[seq + 1];
    if (first == last) return;
    const int begin = (int)a.batch.segments[first].first_row, end = a.batch.first_row(seq + 1);
    Window<TAPS, N> window(a, channel);
    window.load_state(a, a.batch.segments[first].from, channel);
    float before[TAPS - 1][N];
#pragma unroll
    for (int i = 0; i < TAPS - 1; i++)
#pragma unroll
        for (int n = 0; n < N; n++) before[i][n] = window.past[i][n];
    for (int row = begin; row < min(end, begin + a.taps - 1); row++) {
        float x[N];
        load_x(x, a, row, channel);
        window.write(a, row, channel, x);
        window.push(x);
    }
    for (uint32_t i = first; i < last; i++) {
        const StateSegment segment = a.batch.segments[i];
        write_state<TAPS, N>(a, before, segment.to, begin, (int)(segment.first_row + segment.num_rows), channel);
    }
}

// The other rows from `first` on.
template <int TAPS, int N>
__device__ __forceinline__ void run_rows(const CausalConv& a, int first, int channel) {
    int seq = a.batch.sequence_of(first), begin = a.batch.first_row(seq), next = a.batch.first_row(seq + 1);
    Window<TAPS, N> window(a, channel);
    for (int row = max(begin, first - (TAPS - 1)); row < first; row++) {
        float x[N];
        load_x(x, a, row, channel);
        window.push(x);
    }
    for (int row = first; row < min(first + ROWS, a.batch.rows); row++) {
        while (row >= next) begin = next, next = a.batch.first_row(++seq + 1), window.forget();
        float x[N];
        load_x(x, a, row, channel);
        if (row - begin >= a.taps - 1) window.write(a, row, channel, x);
        window.push(x);
    }
}

// blockIdx.y: the sequences, then the rows.
#define CAUSAL_CONV(TAPS, N)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(128, 4)                                                                           \
        causal_conv_##TAPS##_##N(bf16* out, const bf16* x, const float* weight, float* states, const StateSegment* segments,      \
                                 const uint32_t* start_loc, int num_seqs, int rows, int channels, int taps, int out_stride,       \
                                 int x_stride) {                                                                                  \
        const CausalConv a = {out, x, weight, states, {segments, start_loc, num_seqs, rows}, channels, taps, out_stride, x_stride}; \
        const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * N, block = blockIdx.y;                                      \
        if (channel >= channels) return;                                                                                          \
        if (block < num_seqs) run_sequence<TAPS, N>(a, block, channel);                                                           \
        else run_rows<TAPS, N>(a, (block - num_seqs) * ROWS, channel);                                                            \
    }                                                                                                                             \
    KERNEL_EXPORT(causal_conv_##TAPS##_##N)

CAUSAL_CONV(4, 2);
CAUSAL_CONV(4, 1);
CAUSAL_CONV(8, 2);
CAUSAL_CONV(8, 1);
