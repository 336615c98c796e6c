//! Reads the keys and tensors of the rotation.

use anyhow::{Context, bail, ensure};
use quire_kernels::RopeStyle;

use super::gguf_keys::Keys;
use super::rope::{RopeScaling, RopeSpec, long_rope_growth, yarn_mscale};
use crate::weights::read_vector;

impl Keys<'_> {
    pub(super) fn rope(
        &self,
        head_dim: usize,
        context_length: u32,
        style: RopeStyle,
    ) -> anyhow::Result<RopeSpec> {
        let rotary_dim = self.rotary_dim("rope.dimension_count", head_dim)?;
        let theta = self.positive("rope.freq_base")?.unwrap_or(10_000.0);
        let scaling = self.rope_scaling(rotary_dim, context_length)?;
        let attention_factor = self.attention_factor(&scaling, context_length)?;
        Ok(RopeSpec { theta, rotary_dim, style, scaling, attention_factor })
    }

    /// Channels of a head that rotate: all, where the key is absent.
    pub(super) fn rotary_dim(&self, suffix: &str, head_dim: usize) -> anyhow::Result<usize> {
        let rotary_dim = self.optional_dimension(suffix)?.unwrap_or(head_dim);
        ensure!(
            rotary_dim.is_multiple_of(2) && rotary_dim <= head_dim,
            "{} is {rotary_dim}, heads have {head_dim} channels",
            self.key(suffix)
        );
        Ok(rotary_dim)
    }

    pub(super) fn original_context_length(&self) -> anyhow::Result<Option<u32>> {
        let length = self.optional_dimension("rope.scaling.original_context_length")?;
        Ok(length.map(|length| length as u32))
    }

    fn rope_scaling(&self, rotary_dim: usize, context_length: u32) -> anyhow::Result<RopeScaling> {
        let half = rotary_dim / 2;
        if self.has_tensor("rope_factors_long.weight") {
            let length = self.original_context_length()?;
            return Ok(RopeScaling::LongRope {
                original_context_length: length.unwrap_or(context_length),
                short: self.divisors("rope_factors_short.weight", half)?,
                long: self.divisors("rope_factors_long.weight", half)?,
            });
        }
        let key = self.key("rope.scaling.type");
        let scaling = match self.file.metadata().string(&key)? {
            None | Some("none") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: self.scaling_factor()? },
            Some("yarn") => RopeScaling::Yarn {
                factor: self.scaling_factor()?,
                original_context_length: self.original_context_length()?.unwrap_or(context_length),
                beta_fast: self.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: self.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                truncate: true,
            },
            Some(other) => bail!("{key} is \"{other}\", which is not supported yet"),
        };
        if !self.has_tensor("rope_freqs.weight") {
            return Ok(scaling);
        }
        ensure!(
            scaling == RopeScaling::None,
            "{key} beside the tensor \"rope_freqs.weight\" is not supported"
        );
        Ok(RopeScaling::Divisors(self.divisors("rope_freqs.weight", half)?))
    }

    fn scaling_factor(&self) -> anyhow::Result<f32> {
        let factor = self.positive("rope.scaling.factor")?;
        factor
            .with_context(|| format!("the file has no key \"{}\"", self.key("rope.scaling.factor")))
    }

    /// What multiplies cosines and sines: `YaRN`'s from its keys, `LongRoPE`'s from the file or the paper's formula.
    fn attention_factor(&self, scaling: &RopeScaling, context_length: u32) -> anyhow::Result<f32> {
        let of_file = self.positive("rope.scaling.attn_factor")?;
        Ok(match scaling {
            RopeScaling::Yarn { factor, .. } => {
                let all_channels = self.number("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
                let growth = yarn_mscale(*factor, 1.0) / yarn_mscale(*factor, all_channels);
                of_file.unwrap_or(1.0) * growth
            }
            RopeScaling::LongRope { original_context_length, .. } => {
                of_file.unwrap_or(long_rope_growth(context_length, *original_context_length))
            }
            _ => of_file.unwrap_or(1.0),
        })
    }

    /// Numbers above 0 that divide the frequencies.
    fn divisors(&self, name: &str, len: usize) -> anyhow::Result<Vec<f32>> {
        let divisors = read_vector(self.file, name, len)?;
        ensure!(
            divisors.iter().all(|&divisor| divisor > 0.0),
            "\"{name}\" has a divisor not above 0"
        );
        Ok(divisors)
    }
}
