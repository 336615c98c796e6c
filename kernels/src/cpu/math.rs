//! Functions that the compiler turns into vector code, and the macro that builds a loop for each instruction set.
#![allow(
    clippy::inline_always,
    reason = "a body takes the instruction set of the function it is inlined into"
)]

/// Defines `$name(simd, …)`, which calls the `#[inline(always)]` function `$body::<FMA>(…)` compiled for that
/// instruction set. `FMA` says whether `mul_add` is one instruction there.
macro_rules! per_simd_level {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        $vis fn $name(simd: crate::cpu::SimdLevel, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $type),*) {
                $body::<true>($($arg),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
            fn avx512($($arg: $type),*) {
                $body::<true>($($arg),*);
            }
            match simd {
                // SAFETY: a device only has a level that its machine has.
                #[cfg(target_arch = "x86_64")]
                crate::cpu::SimdLevel::Avx512 | crate::cpu::SimdLevel::Avx512Bf16 => unsafe {
                    avx512($($arg),*);
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                crate::cpu::SimdLevel::Avx2 | crate::cpu::SimdLevel::AvxVnni => unsafe {
                    avx2($($arg),*);
                },
                _ => $body::<false>($($arg),*),
            }
        }
    };
}
pub(crate) use per_simd_level;

/// Results below the smallest normal number become 0.
pub(crate) const EXP_LOWEST: f32 = -87.336_54;
/// Larger arguments are taken as this one (the result is 2.4e38).
const EXP_HIGHEST: f32 = 88.376_26;

/// Adding 1.5·2²³ leaves the nearest integer in the low bits of the mantissa.
pub(crate) const TO_INTEGER: f32 = 12_582_912.0;
pub(crate) const LN_2_HIGH: f32 = 0.693_359_4;
pub(crate) const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Of eʳ = 1 + r + r²·(…), highest power first.
pub(crate) const EXP_COEFFICIENTS: [f32; 6] =
    [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];

/// `a·b + c`, in one rounding where `FMA` (the machine has the instruction) and in two elsewhere.
#[inline(always)]
pub(crate) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// eˣ within 2 units in the last place, for x up to 88.37; no branches. `exp(0)` is 1 and `exp(-∞)` is 0, exactly.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, then a polynomial in r (the coefficients of Cephes' expf).
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    let bounded = if x > EXP_HIGHEST { EXP_HIGHEST } else { x };
    let shifted = mul_add::<FMA>(bounded, std::f32::consts::LOG2_E, TO_INTEGER);
    let n = shifted - TO_INTEGER;
    let r = mul_add::<FMA>(n, -LN_2_HIGH, bounded);
    let r = mul_add::<FMA>(n, -LN_2_LOW, r);
    let mut polynomial = EXP_COEFFICIENTS[0];
    for &coefficient in &EXP_COEFFICIENTS[1..] {
        polynomial = mul_add::<FMA>(polynomial, r, coefficient);
    }
    let result = mul_add::<FMA>(polynomial, r * r, r) + 1.0;
    let power_of_two = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3F80_0000));
    if x < EXP_LOWEST { 0.0 } else { result * power_of_two }
}

/// Results of `exp2` below the smallest normal number become 0.
pub(crate) const EXP2_LOWEST: f32 = -126.0;
/// Of 2ʳ for |r| ≤ 1/2, highest power first: minimax with a constant of 1, relative error 2e-9.
pub(crate) const EXP2_COEFFICIENTS: [f32; 7] =
    [1.535_336e-4, 1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0];

/// 2ˣ within 2 units in the last place, for x up to 127; no branches. `exp2(0)` is 1 and `exp2(-∞)` is 0, exactly.
#[inline(always)]
pub(crate) fn exp2<const FMA: bool>(x: f32) -> f32 {
    let shifted = x + TO_INTEGER;
    let r = x - (shifted - TO_INTEGER);
    let mut polynomial = EXP2_COEFFICIENTS[0];
    for &coefficient in &EXP2_COEFFICIENTS[1..] {
        polynomial = mul_add::<FMA>(polynomial, r, coefficient);
    }
    let power_of_two = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3F80_0000));
    if x < EXP2_LOWEST { 0.0 } else { polynomial * power_of_two }
}

/// tanh x within some units in the last place: a series near 0, where the quotient of exponentials would cancel.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let square = x * x;
    let mut series = 62.0 / 2835.0;
    for coefficient in [-17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0, 1.0] {
        series = mul_add::<FMA>(series, square, coefficient);
    }
    let quotient = 1.0 - 2.0 / (exp::<FMA>(2.0 * x) + 1.0);
    if square < 0.0625 { series * x } else { quotient }
}

/// Partial sums kept apart, so that the compiler can use vector registers. Part of the result's definition: it fixes
/// the order of additions on every machine.
const LANES: usize = 16;

/// Σ x.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i];
        }
    }
    for i in 0..tail.len() {
        lanes[i] += tail[i];
    }
    lanes.iter().sum()
}

/// `1 / √(mean of x² + eps)`: the factor of RMSNorm (Zhang and Sennrich 2019).
#[inline(always)]
pub(crate) fn inverse_root_mean_square(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (chunks, tail) = x.as_chunks::<LANES>();
    // No closures: they would be compiled for the plain machine and called.
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i] * chunk[i];
        }
    }
    for i in 0..tail.len() {
        lanes[i] += tail[i] * tail[i];
    }
    1.0 / (lanes.iter().sum::<f32>() / x.len() as f32 + eps).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest_relative_error(
        range: (f32, f32),
        fast: fn(f32) -> f32,
        exact: fn(f64) -> f64,
    ) -> f64 {
        let num_steps = 200_000;
        (0..=num_steps)
            .map(|step| range.0 + (range.1 - range.0) * step as f32 / num_steps as f32)
            .map(|x| {
                let exact = exact(f64::from(x));
                ((f64::from(fast(x)) - exact) / exact.abs().max(f64::MIN_POSITIVE)).abs()
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn exponentials_and_tanh_are_as_close_as_promised() {
        let epsilon = f64::from(f32::EPSILON);
        for exp in [exp::<false>, exp::<true>] {
            assert!(largest_relative_error((-87.3, 88.3), exp, f64::exp) < 2.0 * epsilon);
            assert_eq!([exp(0.0), exp(f32::NEG_INFINITY), exp(-200.0)], [1.0, 0.0, 0.0]);
            assert!(exp(f32::NAN).is_nan() && exp(f32::INFINITY) > 2e38);
        }
        for exp2 in [exp2::<false>, exp2::<true>] {
            assert!(largest_relative_error((-126.0, 127.0), exp2, f64::exp2) < 2.0 * epsilon);
            assert_eq!([exp2(0.0), exp2(f32::NEG_INFINITY), exp2(-200.0)], [1.0, 0.0, 0.0]);
            assert!(exp2(f32::NAN).is_nan());
        }
        for tanh in [tanh::<false>, tanh::<true>] {
            assert!(largest_relative_error((-20.0, 20.0), tanh, f64::tanh) < 8.0 * epsilon);
            assert_eq!([tanh(0.0), tanh(1e9), tanh(-1e9)], [0.0, 1.0, -1.0]);
        }
    }
}
