// gated_delta: a block has 32 columns of one value head's matrix of one sequence and walks through its rows. Columns do not
// meet. Four lanes share a column: lane p of them keeps, in registers, the channels 16j + 4p .. 16j + 4p + 3 of the keys.
// TOKENS rows at a time of q and k (scaled to their lengths), v and gates are brought to shared memory. `gated_delta_norm`
// then norms and gates whole heads. A row's additions have one order, whatever the rows beside it.
#include "states.cuh"
#include "vectors.cuh"

constexpr int TOKENS = 16, COLUMNS = 32, THREADS = 128;
constexpr float LENGTH_EPS = 1e-6f;

// As `DeltaArgs` in cuda.rs.
struct DeltaArgs {
    bf16* out;             // [rows, value_heads, value_dim], rows out_stride apart
    const bf16* qkv;       // [rows, q of all key heads | k | v], rows qkv_stride apart
    const bf16* ba;        // [rows, b of all value heads | a], rows ba_stride apart
    const float* rates;    // [value_heads]
    const float* dt_bias;  // [value_heads]
    float* states;         // [slot][value_heads][key_dim][value_dim]
    const StateSegment* segments;
    const uint32_t* start_loc;
    int out_stride, qkv_stride, ba_stride;
    int key_heads, value_heads, key_dim, value_dim;
    int is_tiled;
    float scale;           // of q: 1 / sqrt(key_dim)
    int pad;
};

template <int KEYS> struct alignas(16) DeltaShared {
    float q[TOKENS][KEYS], k[TOKENS][KEYS], v[TOKENS][COLUMNS], decay[TOKENS], beta[TOKENS];
};

// One value head, and the columns of a block.
struct DeltaHead {
    int head, key_head, first_column;

    __device__ __forceinline__ DeltaHead(const DeltaArgs& a) {
        const int tiles = (a.value_dim + COLUMNS - 1) / COLUMNS;
        head = blockIdx.x / tiles;
        first_column = blockIdx.x % tiles * COLUMNS;
        key_head = a.is_tiled ? head % a.key_heads : head / (a.value_heads / a.key_heads);
    }
};

// q (or k) of a row, scaled to length `length`, by a warp; zeros behind its end.
template <int KEYS>
__device__ __forceinline__ void load_key(float (&to)[KEYS], const bf16* from, int key_dim, float length, int lane) {
    constexpr int COUNT = (KEYS + 31) / 32;
    float x[COUNT], sum = 0.f;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        x[i] = lane + 32 * i < key_dim ? bf2f(from[lane + 32 * i]) : 0.f;
        sum = __fmaf_rn(x[i], x[i], sum);
    }
    const float factor = length * rsqrtf(warp_sum(sum) + LENGTH_EPS);
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        if (lane + 32 * i < KEYS) to[lane + 32 * i] = x[i] * factor;
}

__device__ __forceinline__ float softplus(float x) { return x > 20.f ? x : log1pf(expf(x)); }

template <int KEYS>
__device__ __forceinline__ void load_tokens(DeltaShared<KEYS>& shared, const DeltaArgs& a, const DeltaHead& at, int row, int count) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, keys = a.key_heads * a.key_dim;
    for (int i = warp; i < 2 * count; i += THREADS / 32) {
        const bf16* q = a.qkv + (size_t)(row + i / 2) * a.qkv_stride + at.key_head * a.key_dim;
        if (i % 2 == 0) load_key<KEYS>(shared.q[i / 2], q, a.key_dim, a.scale, lane);
        else load_key<KEYS>(shared.k[i / 2], q + keys, a.key_dim, 1.f, lane);
    }
    for (int i = threadIdx.x; i < count * COLUMNS; i += THREADS) {
        const int token = i / COLUMNS, column = at.first_column + i % COLUMNS;
        const bf16* v = a.qkv + (size_t)(row + token) * a.qkv_stride + 2 * keys + at.head * a.value_dim;
        shared.v[token][i % COLUMNS] = column < a.value_dim ? bf2f(v[column]) : 0.f;
    }
    if ((int)threadIdx.x < count) {
        const bf16* ba = a.ba + (size_t)(row + threadIdx.x) * a.ba_stride;
        const float step = softplus(bf2f(ba[a.value_heads + at.head]) + a.dt_bias[at.head]);
        shared.decay[threadIdx.x] = expf(a.rates[at.head] * step);
        shared.beta[threadIdx.x] = 1.f / (1.f + expf(-bf2f(ba[at.head])));
    }
}

// The sum of the four lanes of a column.
__device__ __forceinline__ float column_sum(const float (&x)[4]) {
    float sum = (x[0] + x[1]) + (x[2] + x[3]);
    sum += __shfl_xor_sync(~0u, sum, 1);
    return sum + __shfl_xor_sync(~0u, sum, 2);
}

// A lane's part of a column.
template <int KEYS> struct DeltaColumn {
    float s[KEYS / 16][4];
    int column;  // of the head
    int part;

    __device__ __forceinline__ float* element(const DeltaArgs& a, const DeltaHead& at, uint32_t slot, int j, int i) const {
        const size_t key = 16 * j + 4 * part + i;
        return a.states + (((size_t)slot * a.value_heads + at.head) * a.key_dim + key) * a.value_dim + column;
    }
    __device__ __forceinline__ bool has(const DeltaArgs& a, int j, int i) const {
        return column < a.value_dim && 16 * j + 4 * part + i < a.key_dim;
    }
    __device__ __forceinline__ void load(const DeltaArgs& a, const DeltaHead& at, uint32_t slot) {
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[j][i] = slot != NO_STATE && has(a, j, i) ? *element(a, at, slot, j, i) : 0.f;
    }
    __device__ __forceinline__ void store(const DeltaArgs& a, const DeltaHead& at, uint32_t slot) const {
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (has(a, j, i)) *element(a, at, slot, j, i) = s[j][i];
    }

    // S = decay · S, d = beta · (v - k S), S += k d; returns q S.
    __device__ __forceinline__ float step(const DeltaShared<KEYS>& shared, int token, int local_column) {
        const float decay = shared.decay[token];
        float sum[4] = {};
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            const float4 k = *(const float4*)&shared.k[token][16 * j + 4 * part];
            sum[0] = __fmaf_rn(s[j][0], k.x, sum[0]), sum[1] = __fmaf_rn(s[j][1], k.y, sum[1]);
            sum[2] = __fmaf_rn(s[j][2], k.z, sum[2]), sum[3] = __fmaf_rn(s[j][3], k.w, sum[3]);
        }
        const float recalled = column_sum(sum);
        const float correction = shared.beta[token] * __fmaf_rn(-decay, recalled, shared.v[token][local_column]);
        for (int i = 0; i < 4; i++) sum[i] = 0.f;
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            const float4 k4 = *(const float4*)&shared.k[token][16 * j + 4 * part], q4 = *(const float4*)&shared.q[token][16 * j + 4 * part];
            const float k[4] = {k4.x, k4.y, k4.z, k4.w}, q[4] = {q4.x, q4.y, q4.z, q4.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[j][i] = __fmaf_rn(k[i], correction, s[j][i] * decay);
                sum[i] = __fmaf_rn(s[j][i], q[i], sum[i]);
            }
        }
        return column_sum(sum);
    }
};

template <int KEYS> __device__ __forceinline__ void run_head(const DeltaArgs& a) {
    __shared__ DeltaShared<KEYS> shared;
    const DeltaHead at(a);
    const uint32_t first = a.start_loc[blockIdx.y], last = a.start_loc[blockIdx.y + 1];
    if (first == last) return;
    DeltaColumn<KEYS> column;
    const int local = threadIdx.x / 4;
    column.column = at.first_column + local, column.part = threadIdx.x % 4;
    column.load(a, at, a.segments[first].from);
    for (uint32_t i = first; i < last; i++) {
        const StateSegment segment = a.segments[i];
        const int end = (int)(segment.first_row + segment.num_rows);
        for (int row = (int)segment.first_row; row < end; row += TOKENS) {
            const int count = min(TOKENS, end - row);
            load_tokens<KEYS>(shared, a, at, row, count);
            __syncthreads();
            for (int token = 0; token < count; token++) {
                const float o = column.step(shared, token, local);
                if (column.part == 0 && column.column < a.value_dim)
                    a.out[(size_t)(row + token) * a.out_stride + at.head * a.value_dim + column.column] = f2bf(o);
            }
            __syncthreads();  // everybody has read the tokens
        }
        column.store(a, at, segment.to);
    }
}

// blockIdx.x: value heads and their columns; blockIdx.y: sequences.
#define GATED_DELTA(KEYS)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 3) gated_delta_##KEYS(const DeltaArgs a) { run_head<KEYS>(a); }  \
    KERNEL_EXPORT(gated_delta_##KEYS)

GATED_DELTA(16);
GATED_DELTA(32);
GATED_DELTA(64);
GATED_DELTA(128);
GATED_DELTA(256);

// x = weight · rms_norm(x) · silu(z): a warp a head of a row, N channels a lane at a time.
template <int N>
__device__ __forceinline__ void norm_and_gate(bf16* x, const bf16* z, const float* weight, int heads, int value_dim, int x_stride,
                                              int z_stride, float eps) {
    const int head = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x & 31;
    if (head >= heads) return;
    bf16* row = x + (size_t)blockIdx.y * x_stride + (size_t)head * value_dim;
    const bf16* gates = z + (size_t)blockIdx.y * z_stride + (size_t)head * value_dim;
    float sum = 0.f;
    for (int i = lane * N; i < value_dim; i += 32 * N) {
        float values[N];
        load_numbers(values, row + i);
#pragma unroll
        for (int n = 0; n < N; n++) sum = __fmaf_rn(values[n], values[n], sum);
    }
    const float factor = rsqrtf(warp_sum(sum) / (float)value_dim + eps);
    for (int i = lane * N; i < value_dim; i += 32 * N) {
        float values[N], gate[N], weights[N];
        load_numbers(values, row + i);
        load_numbers(gate, gates + i);
        load_numbers(weights, weight + i);
#pragma unroll
        for (int n = 0; n < N; n++) values[n] = values[n] * factor * weights[n] * (gate[n] / (1.f + __expf(-gate[n])));
        store_numbers(row + i, values);
    }
}

#define GATED_DELTA_NORM(N)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                 \
        gated_delta_norm_##N(bf16* x, const bf16* z, const float* weight, int heads, int value_dim, int x_stride,         \
                             int z_stride, float eps) {                                                                   \
        norm_and_gate<N>(x, z, weight, heads, value_dim, x_stride, z_stride, eps);                                        \
    }                                                                                                                     \
    KERNEL_EXPORT(gated_delta_norm_##N)

GATED_DELTA_NORM(4);
GATED_DELTA_NORM(1);
