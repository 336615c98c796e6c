//! Rotary position embedding (Su et al. 2021) and what stretches it to longer contexts.

use std::f64::consts::PI;

use quire_kernels::{RopeStyle, RopeTable};

/// One rotation, which any number of layers may share.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    pub theta: f32,
    /// Channels of each head that rotate; the rest pass through.
    pub rotary_dim: usize,
    pub style: RopeStyle,
    pub scaling: RopeScaling,
    /// Multiplies cosines and sines.
    pub attention_factor: f32,
}

/// How frequencies differ from `theta^(-2i/rotary_dim)`.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// All are divided by `factor` (Chen et al. 2023).
    Linear {
        factor: f32,
    },
    /// Llama 3.1: frequencies with fewer than `low_freq_factor` turns in the original context are divided by `factor`,
    /// those with more than `high_freq_factor` are kept, and between the two it is interpolated.
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context_length: f32,
    },
    /// Each has its own divisor, rotary_dim/2 of them (Llama 3 in GGUF files).
    Divisors(Vec<f32>),
    /// Slow ones are divided by `factor`, fast ones are kept, with a ramp between (Peng et al. 2023). Where the ramp
    /// begins and ends is told by turns within the original context.
    Yarn {
        factor: f32,
        original_context_length: u32,
        beta_fast: f32,
        beta_slow: f32,
        /// The ramp begins and ends at whole pairs.
        truncate: bool,
    },
    /// Divisors for contexts up to the original one and for longer ones (Ding et al. 2024). Cached keys cannot change
    /// their rotation, so the longest context that the engine serves decides for all.
    LongRope {
        original_context_length: u32,
        short: Vec<f32>,
        long: Vec<f32>,
    },
}

impl RopeSpec {
    /// The rotations of `num_positions` positions; `None` when memory is short.
    pub fn table(&self, num_positions: usize) -> Option<RopeTable> {
        let frequencies = self.inverse_frequencies(num_positions);
        RopeTable::new(&frequencies, self.attention_factor, num_positions, self.style)
    }

    /// Angle per position of each pair of channels.
    pub fn inverse_frequencies(&self, num_positions: usize) -> Vec<f32> {
        let plain = |i| f64::from(self.theta).powf(-2.0 * i as f64 / self.rotary_dim as f64);
        let frequency = |i: usize| match &self.scaling {
            RopeScaling::None => plain(i),
            RopeScaling::Linear { factor } => plain(i) / f64::from(*factor),
            &RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_context_length: length,
            } => {
                let (low, high) = (f64::from(low), f64::from(high));
                let turns = f64::from(length) * plain(i) / (2.0 * PI);
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - kept) * plain(i) / f64::from(factor) + kept * plain(i)
            }
            RopeScaling::Divisors(divisors) => plain(i) / f64::from(divisors[i]),
            RopeScaling::Yarn { factor, .. } => {
                let share = self.yarn_ramp(i);
                plain(i) / f64::from(*factor) * share + plain(i) * (1.0 - share)
            }
            RopeScaling::LongRope { original_context_length, short, long } => {
                let is_long = num_positions > *original_context_length as usize;
                plain(i) / f64::from(if is_long { long[i] } else { short[i] })
            }
        };
        (0..self.rotary_dim / 2).map(|i| frequency(i) as f32).collect()
    }

    /// 0 where `YaRN` keeps frequency i, 1 where it divides it.
    fn yarn_ramp(&self, i: usize) -> f64 {
        let RopeScaling::Yarn { original_context_length, beta_fast, beta_slow, truncate, .. } =
            self.scaling
        else {
            return 0.0;
        };
        let dim = self.rotary_dim as f64;
        // The (fractional) pair that makes so many turns within the original context.
        let pair_of = |turns: f32| {
            let length = f64::from(original_context_length);
            dim * (length / (2.0 * PI * f64::from(turns))).ln() / (2.0 * f64::from(self.theta).ln())
        };
        let (mut low, mut high) = (pair_of(beta_fast), pair_of(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let low = low.max(0.0);
        let high = high.min(dim - 1.0).max(low + 0.001);
        ((i as f64 - low) / (high - low)).clamp(0.0, 1.0)
    }
}

/// `YaRN`'s growth of the attention with the context: `0.1 · scale · ln(factor) + 1`.
pub fn yarn_mscale(factor: f32, scale: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

/// `LongRoPE`'s growth of the attention with the context: `sqrt(ln(length) / ln(original))`.
pub fn long_rope_growth(context_length: u32, original_context_length: u32) -> f32 {
    let growth = f64::from(context_length).ln() / f64::from(original_context_length).ln();
    if growth <= 1.0 || !growth.is_finite() { 1.0 } else { growth.sqrt() as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> RopeSpec {
        let style = RopeStyle::Neox;
        RopeSpec { theta: 10_000.0, rotary_dim: 8, style, scaling, attention_factor: 1.0 }
    }

    #[test]
    fn each_scaling_changes_the_frequencies_it_should() {
        let plain = rope(RopeScaling::None).inverse_frequencies(4096);
        assert_eq!(plain, [1.0, 0.1, 0.01, 0.001]);
        let linear = rope(RopeScaling::Linear { factor: 4.0 }).inverse_frequencies(4096);
        assert_eq!(linear, [0.25, 0.025, 0.0025, 0.00025]);

        let original_context_length = 2048;
        let (short, long) = (vec![1.0; 4], vec![1.0, 2.0, 4.0, 8.0]);
        let longrope = rope(RopeScaling::LongRope { original_context_length, short, long });
        assert_eq!(longrope.inverse_frequencies(2048), plain);
        assert_eq!(longrope.inverse_frequencies(2049), [1.0, 0.05, 0.0025, 0.000_125]);

        // In 2048 positions, pair 1.01 makes 32 turns and pair 2.51 makes one: the ramp is from 1 to 3.
        let scaling = |truncate| RopeScaling::Yarn {
            factor: 4.0,
            original_context_length,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate,
        };
        let yarn = rope(scaling(true)).inverse_frequencies(4096);
        assert_eq!(yarn[..2], [1.0, 0.1], "fast pairs are kept");
        assert!((yarn[2] - 0.01 * (0.5 + 0.5 / 4.0)).abs() < 1e-8, "half way: {}", yarn[2]);
        assert!((yarn[3] - 0.001 / 4.0).abs() < 1e-9, "slow pairs are divided: {}", yarn[3]);
        let share = (2.0 - 1.008) / (2.513 - 1.008);
        let yarn = rope(scaling(false)).inverse_frequencies(4096);
        assert!((yarn[2] - 0.01 * (1.0 - share * 0.75)).abs() < 1e-5, "within: {}", yarn[2]);
        assert!((yarn_mscale(4.0, 1.0) - 1.138_629_4).abs() < 1e-6);
    }
}
