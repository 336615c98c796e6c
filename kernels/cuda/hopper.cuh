// Primitives that only Hopper has: mbarrier, TMA, wgmma. For files that are compiled for sm_90a alone.
#pragma once
#include "prims.cuh"

__device__ __forceinline__ void mbar_init(uint64_t* barrier, int count) {
#ifdef QUIRE_EMULATED
    sim::mbarrier_init(barrier, count);
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_u32(barrier)), "r"(count) : "memory");
#endif
}

__device__ __forceinline__ void mbar_init_fence() {
#ifndef QUIRE_EMULATED
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Arrives once, and expects so many bytes more.
__device__ __forceinline__ void mbar_expect_tx(uint64_t* barrier, uint32_t bytes) {
#ifdef QUIRE_EMULATED
    sim::mbarrier_arrive(barrier, bytes);
#else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_u32(barrier)), "r"(bytes) : "memory");
#endif
}

__device__ __forceinline__ void mbar_arrive(uint64_t* barrier) {
#ifdef QUIRE_EMULATED
    sim::mbarrier_arrive(barrier, 0);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_u32(barrier)) : "memory");
#endif
}

__device__ __forceinline__ void mbar_wait(uint64_t* barrier, uint32_t parity) {
#ifdef QUIRE_EMULATED
    sim::mbarrier_wait(barrier, parity);
#else
    asm volatile(
        "{\n.reg .pred p;\nW_%=:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra D_%=;\nbra W_%=;\nD_%=:\n}" ::"r"(smem_u32(barrier)),
        "r"(parity)
        : "memory");
#endif
}

__device__ __forceinline__ void tma_load_2d(void* to, const CUtensorMap* map, uint64_t* barrier, int x, int y) {
#ifdef QUIRE_EMULATED
    sim::tma_load_2d(to, map, barrier, x, y);
#else
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(smem_u32(to)),
                 "l"(map), "r"(smem_u32(barrier)), "r"(x), "r"(y)
                 : "memory");
#endif
}

// What this thread wrote to shared memory is seen by TMA and wgmma behind the next barrier.
__device__ __forceinline__ void fence_async() {
#ifndef QUIRE_EMULATED
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Gives registers back, or takes them, down or up to N a thread.
template <int N>
__device__ __forceinline__ void reg_dec() {
#ifndef QUIRE_EMULATED
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

template <int N>
__device__ __forceinline__ void reg_inc() {
#ifndef QUIRE_EMULATED
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

// Of a K-major tile: 64 bf16 (128 bytes) a row, groups of 8 rows, 128-byte swizzle.
__device__ __forceinline__ uint64_t desc_k_sw128(const void* p) {
    return (uint64_t)(smem_u32(p) >> 4 & 0x3FFF) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

template <int R>
__device__ __forceinline__ void wgmma_fence(float (&d)[R]) {
#ifndef QUIRE_EMULATED
#pragma unroll
    for (int i = 0; i < R; i++) asm volatile("" : "+f"(d[i])::"memory");
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void wgmma_commit() {
#ifdef QUIRE_EMULATED
    sim::wgmma_commit();
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

template <int N>
__device__ __forceinline__ void wgmma_wait() {
#ifdef QUIRE_EMULATED
    sim::wgmma_wait(N);
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#endif
}

// d[64 x 64] = a[64 x 16] · b[64 x 16]ᵀ, plus d where `keeps`; bf16 into f32, both from shared memory.
__device__ __forceinline__ void wgmma_m64n64k16(float (&d)[32], uint64_t a, uint64_t b, int keeps) {
#ifdef QUIRE_EMULATED
    sim::wgmma(d, 64, a, b, keeps);
#else
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
        "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
        "}, %32, %33, p, 1, 1, 0, 0;\n}"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
        : "l"(a), "l"(b), "r"(keeps));
#endif
}
