//! Loops that reach one limit of the machine each and do nothing else: what benches compare the ops with.
#![allow(clippy::inline_always, reason = "a loop is compiled once per instruction set")]

use std::hint::black_box;

/// The kinds of multiply-add that ops are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    Float32,
    /// Pairs of bfloat16 products summed in float32.
    Bfloat16,
    /// Fours of 8-bit products summed in 32 bits.
    Int8,
}

/// `num_rounds` rounds of independent multiply-adds in registers, by this machine's widest instruction. Returns the
/// operations done (a multiply-add counts two); `None` where no instruction does this.
pub fn multiply_add(arithmetic: Arithmetic, num_rounds: u64) -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    let operations = x86::multiply_add(arithmetic, num_rounds);
    #[cfg(not(target_arch = "x86_64"))]
    let operations = None;
    match (operations, arithmetic) {
        (None, Arithmetic::Float32) => Some(float32_portable(num_rounds)),
        (operations, _) => operations,
    }
}

/// Reads all of `memory` once; the sum keeps the loads.
pub fn read(memory: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the machine has AVX-512 F, the only condition.
        return unsafe { x86::read_avx512(memory) };
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has AVX2, the only condition.
        return unsafe { x86::read_avx2(memory) };
    }
    sum(memory)
}

/// Independent sums a round: enough to hide the latency of an instruction, few enough for the registers.
const CHAINS: usize = 12;

#[inline(always)]
fn sum(memory: &[u64]) -> u64 {
    memory.iter().fold(0, |sum, &word| sum.wrapping_add(word))
}

fn float32_portable(num_rounds: u64) -> u64 {
    const LANES: usize = 4;
    let mut sums = black_box([[0.0_f32; LANES]; CHAINS]);
    let (a, b) = black_box(([1.0_f32; LANES], [1e-9_f32; LANES]));
    for _ in 0..num_rounds {
        for sum in &mut sums {
            for lane in 0..LANES {
                sum[lane] += a[lane] * b[lane];
            }
        }
    }
    black_box(sums);
    num_rounds * (2 * LANES * CHAINS) as u64
}

#[cfg(target_arch = "x86_64")]
#[allow(clippy::wildcard_imports, reason = "the instruction names are the vocabulary here")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{Arithmetic, CHAINS, sum};

    pub(super) fn multiply_add(arithmetic: Arithmetic, num_rounds: u64) -> Option<u64> {
        let avx512 = is_x86_feature_detected!("avx512f");
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        // SAFETY (of every call below): its guard says that the machine has the instructions, the only condition.
        match arithmetic {
            // SAFETY: as above.
            Arithmetic::Float32 if avx512 => Some(unsafe { float32_avx512(num_rounds) }),
            // SAFETY: as above.
            Arithmetic::Float32 if avx2 => Some(unsafe { float32_avx2(num_rounds) }),
            Arithmetic::Bfloat16 if avx512 && is_x86_feature_detected!("avx512bf16") => {
                // SAFETY: as above.
                Some(unsafe { bfloat16_avx512(num_rounds) })
            }
            Arithmetic::Int8 if avx512 && is_x86_feature_detected!("avx512vnni") => {
                // SAFETY: as above.
                Some(unsafe { int8_avx512(num_rounds) })
            }
            Arithmetic::Int8 if avx2 && is_x86_feature_detected!("avxvnni") => {
                // SAFETY: as above.
                Some(unsafe { int8_avx_vnni(num_rounds) })
            }
            // SAFETY: as above.
            Arithmetic::Int8 if avx2 => Some(unsafe { int8_avx2(num_rounds) }),
            _ => None,
        }
    }

    /// A function that applies `$step` (sum → sum) to all chains in each round.
    macro_rules! rounds {
        ($name:ident, $features:literal, $operations:literal, $zero:expr, |$sum:ident| $step:expr) => {
            #[target_feature(enable = $features)]
            fn $name(num_rounds: u64) -> u64 {
                // Opaque starts, or the compiler would see that all chains are equal.
                let mut sums = black_box([$zero; CHAINS]);
                for _ in 0..num_rounds {
                    for sum in &mut sums {
                        let $sum = *sum;
                        *sum = $step;
                    }
                }
                black_box(sums);
                num_rounds * $operations * CHAINS as u64
            }
        };
    }

    rounds!(float32_avx512, "avx512f", 32, _mm512_setzero_ps(), |sum| {
        _mm512_fmadd_ps(_mm512_set1_ps(1e-9), _mm512_set1_ps(1.5), sum)
    });
    rounds!(float32_avx2, "avx2,fma", 16, _mm256_setzero_ps(), |sum| {
        _mm256_fmadd_ps(_mm256_set1_ps(1e-9), _mm256_set1_ps(1.5), sum)
    });
    rounds!(bfloat16_avx512, "avx512f,avx512bf16", 64, _mm512_setzero_ps(), |sum| {
        let ones = _mm512_set1_ps(1e-9);
        let pairs = _mm512_cvtne2ps_pbh(ones, ones);
        _mm512_dpbf16_ps(sum, pairs, pairs)
    });
    rounds!(int8_avx512, "avx512f,avx512vnni", 128, _mm512_setzero_si512(), |sum| {
        _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(3), _mm512_set1_epi8(5))
    });
    rounds!(int8_avx_vnni, "avx2,avxvnni", 64, _mm256_setzero_si256(), |sum| {
        _mm256_dpbusd_avx_epi32(sum, _mm256_set1_epi8(3), _mm256_set1_epi8(5))
    });
    rounds!(int8_avx2, "avx2", 64, _mm256_setzero_si256(), |sum| {
        // The sum as a factor, so that the products are computed anew in each round.
        let products = _mm256_maddubs_epi16(_mm256_set1_epi8(1), sum);
        _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)))
    });

    #[target_feature(enable = "avx512f")]
    pub(super) fn read_avx512(memory: &[u64]) -> u64 {
        sum(memory)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn read_avx2(memory: &[u64]) -> u64 {
        sum(memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_sums_every_word() {
        let memory: Vec<u64> = (0..1001).collect();
        assert_eq!(read(&memory), 1000 * 1001 / 2);
        assert_eq!(read(&[]), 0);
    }

    #[test]
    fn operations_grow_with_the_rounds() {
        for kind in [Arithmetic::Float32, Arithmetic::Bfloat16, Arithmetic::Int8] {
            let (once, thrice) = (multiply_add(kind, 1), multiply_add(kind, 3));
            assert_eq!(once.map(|operations| 3 * operations), thrice, "{kind:?}");
            assert_ne!(once, Some(0), "{kind:?}");
        }
        assert!(multiply_add(Arithmetic::Float32, 1).is_some());
    }
}
