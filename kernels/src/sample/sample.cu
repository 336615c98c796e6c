// From logits to one token a row: masks, bias, penalties, temperature, filters, a counter-based draw, log-probabilities.
// A block a row. Weights are whole numbers, so the tokens are those of the CPU (`cpu.rs`), and no row depends on another.
#include "select.cuh"

enum SampleFlags : uint32_t {
    CHANGES = 1,     // mask, bans, bias or penalties
    PENALTIES = 2,
    HAS_MASK = 4,
    GREEDY = 8,
    REPORTS = 16,    // log-probabilities
    HAS_TARGET = 32, // no sampling: only a report on `target`
};

// As `DeviceSampleRow` in cuda.rs. Lists are ranges of the row's words.
struct DeviceSampleRow {
    uint64_t seed;
    double log_min_p;  // -inf: off
    float temperature, inverse_temperature, top_p;
    float repetition_penalty, presence_penalty, frequency_penalty;
    uint32_t flags, top_k, position, num_top, target;
    uint32_t prompt, num_prompt;  // ids
    uint32_t output, num_output;  // ids
    uint32_t bias, num_bias;      // pairs of id and float
    uint32_t mask, mask_words;
    uint32_t banned, num_banned;  // ids
    uint32_t changed_row;         // of `work` and `counts`
    uint32_t min_position, num_always_banned;  // from that position on only the first of the banned are
};

// As `SampleArgs` in cuda.rs.
struct SampleArgs {
    uint32_t* out;         // [blocks][4]: token, finite, log-probability, rank
    uint32_t* tops;        // [blocks][max_top]: pairs of token and log-probability
    const float* logits;   // [blocks, vocabulary], rows logits_stride apart
    float* work;           // [rows that change, vocabulary]
    uint32_t* counts;      // the same, all 0
    const DeviceSampleRow* rows;
    uint32_t* words;       // of row i of `rows` from i * words_stride on
    // Of a table of rows that outlives a step, else null: the row of each block (~0: none), its output tokens so far, and
    // by row the token it got last.
    const uint32_t *table_rows, *positions;
    uint32_t* sampled;
    int vocabulary, logits_stride, max_top, words_stride;
};

// What a block does: its row, and where its results go.
struct SampleTask {
    const DeviceSampleRow& row;
    uint32_t* words;
    uint32_t position, num_output, changed_row;
};

constexpr uint32_t IN_PROMPT = 1u << 31;

// The smallest key of the row; 0 when a logit is NaN or +inf.
__device__ __forceinline__ uint64_t likeliest(SampleShared& shared, const float* logits, int size) {
    uint64_t best = NO_CUTOFF;
    for (int token = threadIdx.x; token < size; token += SAMPLE_THREADS) {
        const float logit = logits[token];
        const uint64_t key = logit < INFINITY ? token_key(logit, token) : 0;
        best = key < best ? key : best;
    }
    return block_min(shared, best);
}

__device__ __forceinline__ bool is_usable(uint64_t likeliest_key) { return likeliest_key != 0 && logit_of_key(likeliest_key) > -INFINITY; }

// Adds all biases of a token in the order of the list: the first entry of the token does it.
__device__ __forceinline__ void apply_bias(float* work, const SampleArgs& a, const SampleTask& task) {
    const DeviceSampleRow& row = task.row;
    const uint32_t* list = task.words + row.bias;
    for (uint32_t i = threadIdx.x; i < row.num_bias; i += SAMPLE_THREADS) {
        const uint32_t token = list[2 * i];
        bool is_first = token < (uint32_t)a.vocabulary;
        for (uint32_t j = 0; j < i && is_first; j++) is_first = list[2 * j] != token;
        if (!is_first) continue;
        float logit = work[token];
        for (uint32_t j = i; j < row.num_bias; j++)
            if (list[2 * j] == token) logit = __fadd_rn(logit, __uint_as_float(list[2 * j + 1]));
        work[token] = logit;
    }
}

__device__ __forceinline__ float penalized(float logit, uint32_t in_output, const DeviceSampleRow& row) {
    const float repeated = logit > 0.f ? __fdiv_rn(logit, row.repetition_penalty) : __fmul_rn(logit, row.repetition_penalty);
    if (in_output == 0) return repeated;
    return __fsub_rn(__fsub_rn(repeated, __fmul_rn((float)in_output, row.frequency_penalty)), row.presence_penalty);
}

// Counts tokens, then changes each token's logit once and leaves its count at 0.
__device__ __forceinline__ void apply_penalties(float* work, uint32_t* counts, const SampleArgs& a, const SampleTask& task) {
    const DeviceSampleRow& row = task.row;
    const uint32_t num_prompt = row.repetition_penalty == 1.f ? 0 : row.num_prompt, size = (uint32_t)a.vocabulary;
    const uint32_t *prompt = task.words + row.prompt, *output = task.words + row.output;
    for (uint32_t i = threadIdx.x; i < num_prompt; i += SAMPLE_THREADS)
        if (prompt[i] < size) atomicOr(counts + prompt[i], IN_PROMPT);
    for (uint32_t i = threadIdx.x; i < task.num_output; i += SAMPLE_THREADS)
        if (output[i] < size) atomicAdd(counts + output[i], 1u);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < num_prompt + task.num_output; i += SAMPLE_THREADS) {
        const uint32_t token = i < num_prompt ? prompt[i] : output[i - num_prompt];
        if (token >= size) continue;
        const uint32_t seen = atomicExch(counts + token, 0u);
        if (seen) work[token] = penalized(work[token], seen & ~IN_PROMPT, row);
    }
}

// Masks, bans, bias and penalties, from `logits` into `work`.
__device__ __forceinline__ void process(float* work, uint32_t* counts, const float* logits, const SampleArgs& a, const SampleTask& task) {
    const DeviceSampleRow& row = task.row;
    const uint32_t* mask = task.words + row.mask;
    const uint32_t num_banned = task.position < row.min_position ? row.num_banned : row.num_always_banned;
    for (int token = threadIdx.x; token < a.vocabulary; token += SAMPLE_THREADS) {
        bool allowed = true;
        if (row.flags & HAS_MASK) allowed = (uint32_t)token / 32 < row.mask_words && mask[token / 32] >> (token % 32) & 1u;
        work[token] = allowed ? logits[token] : -INFINITY;
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < num_banned; i += SAMPLE_THREADS) {
        const uint32_t token = task.words[row.banned + i];
        if (token < (uint32_t)a.vocabulary) work[token] = -INFINITY;
    }
    __syncthreads();
    apply_bias(work, a, task);
    __syncthreads();
    if (row.flags & PENALTIES) apply_penalties(work, counts, a, task);
    __syncthreads();
}

// The smallest logit whose probability is at least min_p times the largest probability.
__device__ __forceinline__ float min_p_threshold(float largest, const DeviceSampleRow& row) {
    if (row.log_min_p == -INFINITY) return -INFINITY;
    const double exact = __dadd_rn((double)largest, __dmul_rn((double)row.temperature, row.log_min_p));
    float rounded = __double2float_rn(exact);
    if ((double)rounded < exact) {  // the next float above
        const uint32_t bits = __float_as_uint(rounded);
        rounded = rounded == 0.f ? __uint_as_float(1) : __uint_as_float(bits >> 31 ? bits - 1 : bits + 1);
    }
    return fminf(rounded, largest);
}

// `top_p` of the total, rounded up, and at least 1.
__device__ __forceinline__ uint64_t share_of(uint64_t total, float top_p) {
    const double share = ceil(__dmul_rn((double)top_p, (double)total));
    if (!(share > 1.0)) return 1;
    return share < (double)total ? (uint64_t)share : total;
}

// Filters and the draw.
__device__ __forceinline__ int draw(SampleShared& shared, const float* logits, float largest, const SampleArgs& a, const SampleTask& task) {
    const DeviceSampleRow& want = task.row;
    TokenRow row = {logits, a.vocabulary, largest, want.inverse_temperature, min_p_threshold(largest, want), NO_CUTOFF};
    if (want.top_k >= 1 && want.top_k < (uint32_t)a.vocabulary)
        row.cutoff = prefix_end<false>(shared, row, [&](uint64_t) { return (uint64_t)want.top_k; });
    if (want.top_p < 1.f) row.cutoff = prefix_end<true>(shared, row, [&](uint64_t all) { return share_of(all, want.top_p); });
    uint64_t total = 0;
    for (int token = threadIdx.x; token < row.size; token += SAMPLE_THREADS) total += kept_weight(row, token);
    total = block_sum(shared, total);
    // A uniform number below the total.
    return token_at(shared, row, __umul64hi(random_bits(want.seed, task.position), total));
}

// Log-probability and rank of `token`, and the likeliest tokens, of the raw logits.
__device__ __forceinline__ void report(SampleShared& shared, uint32_t* out, uint32_t* tops, const float* logits, float largest,
                                       uint32_t token, uint32_t num_top, const SampleArgs& a) {
    TokenRow row = {logits, a.vocabulary, largest, 1.f, -INFINITY, NO_CUTOFF};
    const bool exists = token < (uint32_t)a.vocabulary;
    const float own = exists ? logits[token] : -INFINITY;
    const uint64_t own_key = exists ? token_key(own, (int)token) : NO_CUTOFF;
    uint64_t total = 0, likelier = 0;
    for (int i = threadIdx.x; i < a.vocabulary; i += SAMPLE_THREADS) {
        total += weight_of(row, logits[i]);
        likelier += token_key(logits[i], i) < own_key;
    }
    total = block_sum(shared, total);
    likelier = block_sum(shared, likelier);
    const double log_sum = log((double)total / 17592186044416.0);
    const auto logprob = [&](float logit) { return (float)__dadd_rn(__dadd_rn((double)logit, -(double)largest), -log_sum); };
    if (threadIdx.x == 0) {
        out[0] = token, out[1] = 1, out[2] = __float_as_uint(logprob(own)), out[3] = (uint32_t)likelier + 1;
    }
    if (num_top == 0) return;
    row.cutoff = prefix_end<false>(shared, row, [&](uint64_t) { return (uint64_t)num_top; });
    if (threadIdx.x == 0) shared.list_size = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < a.vocabulary; i += SAMPLE_THREADS)
        if (is_kept(row, logits[i], i)) {
            const uint32_t place = atomicAdd(&shared.list_size, 1u);
            if (place < LIST_SIZE) shared.list[place] = token_key(logits[i], i);
        }
    __syncthreads();
    const uint32_t size = min(shared.list_size, num_top);
    for (uint32_t i = threadIdx.x; i < size; i += SAMPLE_THREADS) {
        const uint64_t key = shared.list[i];
        uint32_t place = 0;
        for (uint32_t j = 0; j < size; j++) place += shared.list[j] < key;
        tops[2 * place] = (uint32_t)key;
        tops[2 * place + 1] = __float_as_uint(logprob(logit_of_key(key)));
    }
}

// The token of a block's row; ~0: its logits are no numbers, or none is left.
__device__ __forceinline__ uint32_t choose(SampleShared& shared, const float* raw, uint64_t raw_key, const SampleArgs& a,
                                           const SampleTask& task) {
    const DeviceSampleRow& want = task.row;
    if (want.flags & HAS_TARGET) return want.target;
    const float* logits = raw;
    uint64_t key = raw_key;
    if (want.flags & CHANGES) {
        const size_t first = (size_t)task.changed_row * a.vocabulary;
        process(a.work + first, a.counts + first, raw, a, task);
        logits = a.work + first;
        key = likeliest(shared, logits, a.vocabulary);
        if (!is_usable(key)) return ~0u;
    }
    return want.flags & GREEDY ? (uint32_t)key : (uint32_t)draw(shared, logits, logit_of_key(key), a, task);
}

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS, 1) sample_rows(const __grid_constant__ SampleArgs a) {
    __shared__ SampleShared shared;
    const uint32_t index = a.table_rows ? a.table_rows[blockIdx.x] : blockIdx.x;
    if (index == ~0u) return;
    const DeviceSampleRow& want = a.rows[index];
    const uint32_t position = a.positions ? a.positions[blockIdx.x] : want.position;
    const SampleTask task = {want, a.words + (size_t)index * a.words_stride, position, a.positions ? position : want.num_output,
                             a.positions ? blockIdx.x : want.changed_row};
    const float* raw = a.logits + (size_t)blockIdx.x * a.logits_stride;
    uint32_t* out = a.out + (size_t)blockIdx.x * 4;
    uint32_t* tops = a.tops + (size_t)blockIdx.x * 2 * a.max_top;
    if (threadIdx.x < 4) out[threadIdx.x] = 0;
    for (int i = threadIdx.x; i < a.max_top && want.flags & REPORTS; i += SAMPLE_THREADS) tops[2 * i] = ~0u, tops[2 * i + 1] = 0;
    const uint64_t raw_key = likeliest(shared, raw, a.vocabulary);
    const uint32_t token = is_usable(raw_key) ? choose(shared, raw, raw_key, a, task) : ~0u;
    const bool failed = token == ~0u && !(want.flags & HAS_TARGET);
    if (threadIdx.x == 0 && a.sampled) {
        const uint32_t next = failed ? 0u : token;  // the next step may compute it before the host knows that it failed
        a.sampled[index] = next;
        if (want.flags & PENALTIES) task.words[want.output + position] = next;
    }
    if (failed || !is_usable(raw_key)) return;
    if (want.flags & REPORTS) report(shared, out, tops, raw, logit_of_key(raw_key), token, want.num_top, a);
    else if (threadIdx.x == 0) out[0] = token, out[1] = 1;
}
KERNEL_EXPORT(sample_rows);
