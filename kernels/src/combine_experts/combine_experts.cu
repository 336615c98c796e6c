// combine_experts: out[r] = shared[r] · σ(gate[r]) + Σ_e weight[r][e] · x[place(r, e)], in f32, experts in their order.
#include "vectors.cuh"

// As `CombineArgs` in cuda.rs.
struct CombineArgs {
    bf16* out;               // [rows, cols], rows out_stride apart
    const bf16* x;           // [places, cols], rows x_stride apart
    const bf16* shared;      // [rows, cols] or null, rows shared_stride apart
    const float* gate;       // of each row, gate_stride apart, or null
    const uint32_t* places;  // [rows, num_chosen]
    const float* weights;    // [rows, num_chosen]; null: each is 1
    int cols, num_chosen, out_stride, x_stride, shared_stride, gate_stride;
};

template <int N>
__device__ __forceinline__ void combine(const CombineArgs& a) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    const size_t row = blockIdx.y;
    if (column >= a.cols) return;
    float sum[N] = {};
    if (a.shared) {
        load_numbers(sum, a.shared + row * a.shared_stride + column);
        const float gate = a.gate ? 1.f / (1.f + __expf(-a.gate[row * a.gate_stride])) : 1.f;
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] *= gate;
    }
    for (int c = 0; c < a.num_chosen; c++) {
        const size_t choice = row * a.num_chosen + c;
        const float weight = a.weights ? a.weights[choice] : 1.f;
        float x[N];
        load_numbers(x, a.x + (size_t)a.places[choice] * a.x_stride + column);
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] = __fmaf_rn(weight, x[i], sum[i]);
    }
    store_numbers(a.out + row * a.out_stride + column, sum);
}

extern "C" __global__ void __launch_bounds__(256) combine_experts_8(const CombineArgs a) { combine<8>(a); }
extern "C" __global__ void __launch_bounds__(256) combine_experts_1(const CombineArgs a) { combine<1>(a); }

KERNEL_EXPORT(combine_experts_8);
KERNEL_EXPORT(combine_experts_1);
