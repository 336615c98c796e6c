// What single instructions do: each kernel is a warp or a block that leaves what it saw, to be compared with the manual.
#include "prims.cuh"

// Rows of 8 elements lie 32 bytes apart. out[lane][register], then the same transposed.
extern "C" __global__ void __launch_bounds__(32) probe_ldmatrix(uint32_t* out, const uint16_t* rows) {
    EXTERN_SHARED(shared);
    uint16_t* tile = (uint16_t*)shared;
    int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) tile[i / 8 * 16 + i % 8] = rows[i];
    __syncwarp();
    uint32_t r[4];
    ldmatrix_x4(r, tile + lane * 16);
#pragma unroll
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = r[i];
    ldmatrix_x4_trans(r, tile + lane * 16);
#pragma unroll
    for (int i = 0; i < 4; i++) out[128 + lane * 4 + i] = r[i];
}
KERNEL_EXPORT(probe_ldmatrix);

// Registers of each lane: a[lane][4], b[lane][2], d[lane][4] before and out[lane][4] after.
extern "C" __global__ void __launch_bounds__(32)
    probe_mma(float* out, const uint32_t* a, const uint32_t* b, const float* d) {
    int lane = threadIdx.x;
    uint32_t fragment[4];
    float sum[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        fragment[i] = a[lane * 4 + i];
        sum[i] = d[lane * 4 + i];
    }
    mma16816(sum, fragment, b[lane * 2], b[lane * 2 + 1]);
#pragma unroll
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = sum[i];
}
KERNEL_EXPORT(probe_mma);

// Three groups of copies, each read by other threads when at most 2, 1 and 0 groups are in flight. Thread t of group g
// gets zeros where t % 7 == g.
extern "C" __global__ void __launch_bounds__(64) probe_cp_async(uint4* out, const uint4* in) {
    EXTERN_SHARED(shared);
    uint4* stages = (uint4*)shared;
    int t = threadIdx.x;
    for (int g = 0; g < 3; g++) {
        cp_async16(stages + g * 64 + t, in + g * 64 + t, t % 7 != g);
        cp_async_commit();
    }
    cp_async_wait<2>();
    __syncthreads();
    out[t] = stages[63 - t];
    cp_async_wait<1>();
    __syncthreads();
    out[64 + t] = stages[64 + 63 - t];
    cp_async_wait<0>();
    __syncthreads();
    out[128 + t] = stages[128 + 63 - t];
}
KERNEL_EXPORT(probe_cp_async);

// Conversions of x[i] (and y[i]): a rounded pair, a sum of pairs, and the float16 whose bits are i.
extern "C" __global__ void __launch_bounds__(256)
    probe_numbers(uint32_t* out, const float* x, const float* y, int count) {
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= count) return;
    uint32_t pair = pack_bf16(x[i], y[i]);
    out[i] = pair;
    out[count + i] = add_bf16x2(pair, pack_bf16(y[i], y[i]));
    out[2 * count + i] = __float_as_uint(half2f((uint16_t)i));
}
KERNEL_EXPORT(probe_numbers);

extern "C" __global__ void __launch_bounds__(256) probe_ex2(float* out, const float* x, int count) {
    int i = blockIdx.x * 256 + threadIdx.x;
    if (i < count) out[i] = ex2(x[i]);
}
KERNEL_EXPORT(probe_ex2);
