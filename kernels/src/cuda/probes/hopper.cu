// What Hopper's own instructions do: mbarrier, TMA, wgmma.
#include "hopper.cuh"

// One box at (x, y) of the tensor, as its bytes lie in shared memory, which is full of 0xEE before.
extern "C" __global__ void __launch_bounds__(128)
    probe_tma(unsigned char* out, const __grid_constant__ CUtensorMap map, int x, int y, int bytes) {
    EXTERN_SHARED(tile);
    __shared__ uint64_t barrier;
    for (int i = threadIdx.x; i < bytes; i += 128) tile[i] = 0xEE;
    if (threadIdx.x == 0) {
        mbar_init(&barrier, 1);
        mbar_init_fence();
    }
    fence_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        mbar_expect_tx(&barrier, bytes);
        tma_load_2d(tile, &map, &barrier, x, y);
    }
    mbar_wait(&barrier, 0);
    for (int i = threadIdx.x; i < bytes; i += 128) out[i] = tile[i];
}
KERNEL_EXPORT(probe_tma);

// A ring of two stages between two warps: out[round][lane] is what lane 31 - lane put in.
extern "C" __global__ void __launch_bounds__(64) probe_mbarrier(unsigned* out, int rounds) {
    __shared__ uint64_t full[2], empty[2];
    __shared__ unsigned stage[2][32];
    int lane = threadIdx.x & 31;
    if (threadIdx.x == 0) {
        for (int s = 0; s < 2; s++) {
            mbar_init(&full[s], 32);
            mbar_init(&empty[s], 32);
        }
        mbar_init_fence();
    }
    __syncthreads();
    for (int round = 0; round < rounds; round++) {
        int s = round & 1, turn = round >> 1 & 1;
        if (threadIdx.x < 32) {
            mbar_wait(&empty[s], turn ^ 1);
            stage[s][lane] = round * 32 + lane;
            mbar_arrive(&full[s]);
        } else {
            mbar_wait(&full[s], turn);
            out[round * 32 + lane] = stage[s][31 - lane];
            mbar_arrive(&empty[s]);
        }
    }
}
KERNEL_EXPORT(probe_mbarrier);

// out[thread][register] = d + a[64 x 64] · b[64 x 64]ᵀ, where d is the register's number, or 0 without `keeps`. Both tiles
// are K-major in the 128-byte swizzle.
extern "C" __global__ void __launch_bounds__(128) probe_wgmma(float* out, const bf16* a, const bf16* b, int keeps) {
    EXTERN_SHARED(shared);
    int t = threadIdx.x;
    for (int i = t; i < 64 * 64; i += 128) {
        int row = i / 64, k = i % 64, at = row * 128 + ((k / 8 ^ row % 8) * 16) + k % 8 * 2;
        *(bf16*)(shared + at) = a[i];
        *(bf16*)(shared + 8192 + at) = b[i];
    }
    fence_async();
    __syncthreads();
    float d[32];
#pragma unroll
    for (int i = 0; i < 32; i++) d[i] = (float)(t * 32 + i);
    uint64_t at_a = desc_k_sw128(shared), at_b = desc_k_sw128(shared + 8192);
    wgmma_fence(d);
#pragma unroll
    for (int step = 0; step < 4; step++) {
        // 16 elements along k are 32 bytes; descriptors count 16.
        wgmma_m64n64k16(d, at_a + 2 * step, at_b + 2 * step, step > 0 || keeps);
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_fence(d);
#pragma unroll
    for (int i = 0; i < 32; i++) out[t * 32 + i] = d[i];
}
KERNEL_EXPORT(probe_wgmma);
