//! Sixteen bytes in a vector register: what block formats are unpacked with.
//!
//! Everything is inlined into functions that are compiled once for each instruction set, with `simd` a constant there.

#[cfg(not(target_arch = "x86_64"))]
pub(super) use plain::Bytes;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::Bytes;

use super::block::f16_to_f32;
use crate::cpu::SimdLevel;

/// The float16 at `block[at..at + 2]`.
#[inline(always)]
pub(super) fn f16_at(simd: SimdLevel, block: &[u8], at: usize) -> f32 {
    let half: &[u8; 2] = block[at..].first_chunk().expect("a block has 2 bytes here");
    #[cfg(target_arch = "x86_64")]
    if simd > SimdLevel::Portable {
        let value: f32;
        // The compiler makes an insertion of the intrinsics, which waits for the last use of its register.
        // SAFETY: the level says that the machine has AVX2 and F16C; 2 readable bytes.
        unsafe {
            std::arch::asm!(
                "vpbroadcastw {value}, word ptr [{half}]",
                "vcvtph2ps {value}, {value}",
                half = in(reg) half.as_ptr(),
                value = lateout(xmm_reg) value,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        return value;
    }
    f16_to_f32(u16::from_le_bytes(*half))
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[allow(clippy::wildcard_imports, reason = "every name of it starts with _mm")]
    use std::arch::x86_64::*;

    use super::plain;
    use crate::cpu::SimdLevel;

    #[derive(Clone, Copy)]
    pub(in crate::linear) struct Bytes(__m128i);

    impl Bytes {
        /// The first 16 bytes of `from`.
        #[inline(always)]
        pub(in crate::linear) fn load(from: &[u8]) -> Self {
            let from: &[u8; 16] = from.first_chunk().expect("a block has 16 bytes here");
            // SAFETY: 16 readable bytes; SSE2 is part of x86-64.
            Self(unsafe { _mm_loadu_si128(from.as_ptr().cast()) })
        }

        /// Into the first 16 bytes of `out`.
        #[inline(always)]
        pub(in crate::linear) fn store(self, out: &mut [u8]) {
            let out: &mut [u8; 16] = out.first_chunk_mut().expect("16 codes");
            // SAFETY: 16 writable bytes; SSE2 is part of x86-64.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), self.0) };
        }

        /// Byte `i` is bit `i` of `bits`.
        #[inline(always)]
        pub(in crate::linear) fn from_bits(bits: u16) -> Self {
            let spread = |byte: u8| u64::from(byte).wrapping_mul(0x0101_0101_0101_0101);
            let [low, high] = bits.to_le_bytes().map(spread);
            // SAFETY: SSE2 is part of x86-64.
            unsafe {
                let copies = _mm_set_epi64x(high.cast_signed(), low.cast_signed());
                let one_bit_each = _mm_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
                let set = _mm_cmpeq_epi8(_mm_and_si128(copies, one_bit_each), one_bit_each);
                Self(_mm_and_si128(set, _mm_set1_epi8(1)))
            }
        }

        /// `(byte >> shift) & mask` for each byte; `mask` must not reach beyond the byte's own bits.
        #[inline(always)]
        pub(in crate::linear) fn bits(self, shift: usize, mask: u8) -> Self {
            debug_assert!(u32::from(mask) << shift <= 255);
            // SAFETY: SSE2 is part of x86-64.
            unsafe {
                let shifted = _mm_srl_epi16(self.0, _mm_cvtsi32_si128(shift as i32));
                Self(_mm_and_si128(shifted, _mm_set1_epi8(mask.cast_signed())))
            }
        }

        /// `byte | upper << shift` for each byte; no bit of `upper` may leave its byte.
        #[inline(always)]
        pub(in crate::linear) fn with_upper(self, upper: Self, shift: usize) -> Self {
            // SAFETY: SSE2 is part of x86-64.
            unsafe {
                let upper = _mm_sll_epi16(upper.0, _mm_cvtsi32_si128(shift as i32));
                Self(_mm_or_si128(self.0, upper))
            }
        }

        /// `byte − value`, wrapping: from here on bytes count as signed.
        #[inline(always)]
        pub(in crate::linear) fn minus(self, value: u8) -> Self {
            // SAFETY: SSE2 is part of x86-64.
            Self(unsafe { _mm_sub_epi8(self.0, _mm_set1_epi8(value.cast_signed())) })
        }

        /// Entry `byte` of `table`; bytes are below 16.
        #[inline(always)]
        pub(in crate::linear) fn look_up(self, simd: SimdLevel, table: &[i8; 16]) -> Self {
            if simd == SimdLevel::Portable {
                return Self::load(&self.to_plain().look_up(simd, table).0);
            }
            // SAFETY: the level says that the machine has AVX2, and so SSSE3; 16 readable bytes.
            Self(unsafe { _mm_shuffle_epi8(_mm_loadu_si128(table.as_ptr().cast()), self.0) })
        }

        /// `out[i] = scale · byte`, bytes signed, for 16 elements.
        #[inline(always)]
        pub(in crate::linear) fn scale(self, simd: SimdLevel, scale: f32, out: &mut [f32]) {
            let out: &mut [f32; 16] = out.first_chunk_mut().expect("16 elements");
            match simd {
                SimdLevel::Portable => self.to_plain().scale(simd, scale, out),
                // SAFETY: the level says what the machine has; 16 writable floats.
                SimdLevel::Avx2 | SimdLevel::AvxVnni => unsafe {
                    for (half, values) in self.to_f32_avx2().into_iter().enumerate() {
                        let values = _mm256_mul_ps(_mm256_set1_ps(scale), values);
                        _mm256_storeu_ps(out.as_mut_ptr().add(8 * half), values);
                    }
                },
                // SAFETY: as above.
                SimdLevel::Avx512 | SimdLevel::Avx512Bf16 => unsafe {
                    let values = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(self.0));
                    let values = _mm512_mul_ps(_mm512_set1_ps(scale), values);
                    _mm512_storeu_ps(out.as_mut_ptr(), values);
                },
            }
        }

        /// `out[i] = scale · byte + offset`, bytes signed, for 16 elements. The product must be exact in float32, as it
        /// is for scales of 17 bits and bytes of 6: then a fused addition gives the same bits as a separate one.
        #[inline(always)]
        pub(in crate::linear) fn scale_and_add(
            self,
            simd: SimdLevel,
            scale: f32,
            offset: f32,
            out: &mut [f32],
        ) {
            let out: &mut [f32; 16] = out.first_chunk_mut().expect("16 elements");
            match simd {
                SimdLevel::Portable => self.to_plain().scale_and_add(simd, scale, offset, out),
                // SAFETY: the level says what the machine has; 16 writable floats.
                SimdLevel::Avx2 | SimdLevel::AvxVnni => unsafe {
                    for (half, values) in self.to_f32_avx2().into_iter().enumerate() {
                        let (scale, offset) = (_mm256_set1_ps(scale), _mm256_set1_ps(offset));
                        let values = _mm256_fmadd_ps(scale, values, offset);
                        _mm256_storeu_ps(out.as_mut_ptr().add(8 * half), values);
                    }
                },
                // SAFETY: as above.
                SimdLevel::Avx512 | SimdLevel::Avx512Bf16 => unsafe {
                    let values = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(self.0));
                    let (scale, offset) = (_mm512_set1_ps(scale), _mm512_set1_ps(offset));
                    let values = _mm512_fmadd_ps(scale, values, offset);
                    _mm512_storeu_ps(out.as_mut_ptr(), values);
                },
            }
        }

        #[inline(always)]
        fn to_plain(self) -> plain::Bytes {
            let mut bytes = [0; 16];
            self.store(&mut bytes);
            plain::Bytes(bytes)
        }

        /// # Safety
        /// The machine has AVX2.
        #[inline(always)]
        unsafe fn to_f32_avx2(self) -> [__m256; 2] {
            // SAFETY: the caller's promise.
            unsafe {
                let high = _mm_unpackhi_epi64(self.0, self.0);
                [self.0, high].map(|bytes| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)))
            }
        }
    }
}

/// The same in plain loops, for other machines; on x86-64 also what the vector code is tested against.
mod plain {
    use crate::cpu::SimdLevel;

    #[derive(Clone, Copy)]
    pub(in crate::linear) struct Bytes(pub(super) [u8; 16]);

    #[cfg_attr(
        all(target_arch = "x86_64", not(test)),
        expect(dead_code, reason = "used in full on other machines and in tests")
    )]
    impl Bytes {
        #[inline(always)]
        pub(in crate::linear) fn load(from: &[u8]) -> Self {
            Self(*from.first_chunk().expect("a block has 16 bytes here"))
        }

        #[inline(always)]
        pub(in crate::linear) fn store(self, out: &mut [u8]) {
            *out.first_chunk_mut().expect("16 codes") = self.0;
        }

        #[inline(always)]
        pub(in crate::linear) fn from_bits(bits: u16) -> Self {
            Self(std::array::from_fn(|i| (bits >> i & 1) as u8))
        }

        #[inline(always)]
        pub(in crate::linear) fn bits(self, shift: usize, mask: u8) -> Self {
            Self(self.0.map(|byte| byte >> shift & mask))
        }

        #[inline(always)]
        pub(in crate::linear) fn with_upper(self, upper: Self, shift: usize) -> Self {
            Self(std::array::from_fn(|i| self.0[i] | upper.0[i] << shift))
        }

        #[inline(always)]
        pub(in crate::linear) fn minus(self, value: u8) -> Self {
            Self(self.0.map(|byte| byte.wrapping_sub(value)))
        }

        #[inline(always)]
        pub(in crate::linear) fn look_up(self, _simd: SimdLevel, table: &[i8; 16]) -> Self {
            Self(self.0.map(|byte| table[usize::from(byte & 15)].cast_unsigned()))
        }

        #[inline(always)]
        pub(in crate::linear) fn scale(self, _simd: SimdLevel, scale: f32, out: &mut [f32]) {
            for (out, byte) in out.iter_mut().zip(self.0) {
                *out = scale * f32::from(byte.cast_signed());
            }
        }

        #[inline(always)]
        pub(in crate::linear) fn scale_and_add(
            self,
            _simd: SimdLevel,
            scale: f32,
            offset: f32,
            out: &mut [f32],
        ) {
            for (out, byte) in out.iter_mut().zip(self.0) {
                *out = scale * f32::from(byte.cast_signed()) + offset;
            }
        }
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::{SimdLevel, plain, x86};
    use crate::cases::random_f32;

    /// Some expressions over either kind of bytes.
    macro_rules! unpack {
        ($kind:ident, $simd:expr, $input:expr, $bits:expr, $shift:expr) => {{
            let bytes = $kind::Bytes::load($input);
            let table = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
            let (low, high) = (bytes.bits($shift, 15), $kind::Bytes::from_bits($bits));
            let mut out = [[0.0; 16]; 3];
            low.with_upper(high, 4).minus(16).scale($simd, 0.37, &mut out[0]);
            low.look_up($simd, &table).scale($simd, -1.7, &mut out[1]);
            low.scale_and_add($simd, 0.25, -0.3, &mut out[2]);
            let mut stored = [0; 16];
            low.minus(3).store(&mut stored);
            (stored, out.map(|values| values.map(f32::to_bits)))
        }};
    }

    #[test]
    fn vector_registers_and_plain_loops_give_the_same_bits() {
        for seed in 0..200 {
            let random = random_f32(seed, 18);
            let input: Vec<u8> = random.iter().map(|v| ((v + 1.0) * 127.5) as u8).collect();
            let bits = u16::from_le_bytes([input[16], input[17]]);
            for shift in 0..=4 {
                let expected = unpack!(plain, SimdLevel::Portable, &input, bits, shift);
                for simd in SimdLevel::available() {
                    assert_eq!(unpack!(x86, simd, &input, bits, shift), expected, "{simd:?}");
                }
            }
        }
    }
}
