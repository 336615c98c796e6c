// The one place with inline PTX. Every primitive has a body for the device and one for the emulator (QUIRE_EMULATED); what
// is written on top of them is one source for nvcc and for a host compiler.
#pragma once
#ifdef QUIRE_EMULATED
#include "emulator.h"
#else
#include <cuda.h>
#include <stdint.h>
#include <string.h>
// Dynamic shared memory of the block, aligned to 1024 bytes.
#define EXTERN_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
// Says that the host launches this kernel, by its name.
#define KERNEL_EXPORT(kernel) static_assert(true, "")
#endif

// ---- numbers ----

struct bf16 {
    uint16_t bits;
};

__host__ __device__ inline float bf2f(bf16 x) {
    unsigned bits = (unsigned)x.bits << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// Rounded to nearest even: the bits that the device's instruction gives.
__host__ __device__ inline uint16_t f2bf_host(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

// Two numbers in the halves of a word, `low` in the lower.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#ifdef QUIRE_EMULATED
    return (uint32_t)f2bf_host(high) << 16 | f2bf_host(low);
#else
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#endif
}

__device__ __forceinline__ bf16 f2bf(float x) { return bf16{(uint16_t)pack_bf16(x, x)}; }
__device__ __forceinline__ float lo2f(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float hi2f(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }

// Sums of two pairs of bf16, each rounded once.
__device__ __forceinline__ uint32_t add_bf16x2(uint32_t a, uint32_t b) {
#ifdef QUIRE_EMULATED
    return pack_bf16(lo2f(a) + lo2f(b), hi2f(a) + hi2f(b));
#else
    uint32_t sum;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(0x3F803F80u), "r"(b));
    return sum;
#endif
}

// Products of two pairs of bf16, each rounded once. Subnormal numbers are numbers.
__device__ __forceinline__ uint32_t mul_bf16x2(uint32_t a, uint32_t b) {
#ifdef QUIRE_EMULATED
    return pack_bf16(lo2f(a) * lo2f(b), hi2f(a) * hi2f(b));
#else
    uint32_t product;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(product) : "r"(a), "r"(b), "r"(0x80008000u));
    return product;
#endif
}

// float16, given as its bits.
__device__ __forceinline__ float half2f(uint16_t bits) {
#ifdef QUIRE_EMULATED
    unsigned sign = (unsigned)(bits >> 15) << 31, exponent = bits >> 10 & 31, mantissa = bits & 1023;
    if (exponent == 0) return __uint_as_float(sign | __float_as_uint((float)mantissa * 0x1p-24f));
    if (exponent == 31) return __uint_as_float(sign | 0x7F800000u | mantissa << 13);
    return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
#else
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#endif
}

// 2^x
__device__ __forceinline__ float ex2(float x) {
#ifdef QUIRE_EMULATED
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// ---- memory ----

// 16 bytes that are read once: not kept in the first-level cache.
__device__ __forceinline__ uint4 ld_stream(const void* p) {
#ifdef QUIRE_EMULATED
    return *(const uint4*)p;
#else
    uint4 r;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
    return r;
#endif
}

// A word that other GPUs and the host see, with all that was written before it.
__device__ __forceinline__ void st_release_system(unsigned* p, unsigned value) {
#ifdef QUIRE_EMULATED
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);
#else
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
#endif
}

__device__ __forceinline__ unsigned ld_acquire_system(const unsigned* p) {
#ifdef QUIRE_EMULATED
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
#else
    unsigned value;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
    return value;
#endif
}

#ifdef QUIRE_EMULATED
using sim::shared_offset;
__device__ __forceinline__ uint32_t smem_u32(const void* p) { return shared_offset(p); }
#else
__device__ __forceinline__ uint32_t smem_u32(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
#endif

// ---- warps ----

__device__ __forceinline__ float warp_sum(float x) {
    for (int distance = 16; distance; distance >>= 1) x += __shfl_xor_sync(~0u, x, distance);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int distance = 16; distance; distance >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, distance));
    return x;
}

// ---- Ampere: cp.async, ldmatrix, mma.sync ----

// 16 bytes into shared memory; zeros where `reads` is false.
__device__ __forceinline__ void cp_async16(void* to, const void* from, bool reads = true) {
#ifdef QUIRE_EMULATED
    sim::cp_async(to, from, reads ? 16 : 0, 16);
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_u32(to)), "l"(from), "r"(reads ? 16 : 0) : "memory");
#endif
}

__device__ __forceinline__ void cp_async_commit() {
#ifdef QUIRE_EMULATED
    sim::cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Until at most N of this thread's groups are in flight.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
#ifdef QUIRE_EMULATED
    sim::cp_async_wait(N);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
#ifdef QUIRE_EMULATED
    sim::ldmatrix(r, row, 4, false);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(smem_u32(row)) : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
#ifdef QUIRE_EMULATED
    sim::ldmatrix(r, row, 4, true);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(smem_u32(row)) : "memory");
#endif
}

// d[16 x 8] += a[16 x 16] · b[16 x 8], bf16 into f32.
__device__ __forceinline__ void mma16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef QUIRE_EMULATED
    uint32_t b[2] = {b0, b1};
    sim::mma_bf16(d, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
