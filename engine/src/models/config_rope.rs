//! Reads the rotation from a config.json, in its old keys and its new ones.

use anyhow::{Context, bail, ensure};
use quire_kernels::RopeStyle;

use super::config_keys::ConfigKeys;
use super::rope::{RopeScaling, RopeSpec, long_rope_growth, yarn_mscale};
use crate::weights::directory::ConfigSection;

const DEFAULT_THETA: f32 = 10_000.0;
const ORIGINAL: &str = "original_max_position_embeddings";

impl ConfigKeys<'_> {
    /// The rotation of layers of one kind, as `layer_types` calls it: `rope_parameters` (one for all kinds, or one for
    /// each), or of older files `rope_theta` and `rope_scaling`.
    pub(super) fn rope(&self, head_dim: usize, kind: &str) -> anyhow::Result<RopeSpec> {
        let text = self.text();
        let parameters = match text.section("rope_parameters")? {
            Some(section) if section.is_nested() => {
                let of_kind = section.section(kind)?;
                Some(of_kind.with_context(|| format!("{} is missing", section.name_of(kind)))?)
            }
            other => other,
        };
        let scaling = match &parameters {
            Some(section) => Some(section.clone()),
            None => text.section("rope_scaling")?,
        };
        if let Some(section) = scaling.as_ref().filter(|section| section.is_nested()) {
            bail!("{} differ by kind of layer, which is not supported", section.name_of("*"));
        }
        let number = |key: &str| match parameters.as_ref().map(|section| section.positive(key)) {
            Some(Ok(None)) | None => text.positive(key),
            Some(found) => found,
        };
        let theta = number("rope_theta")?.unwrap_or(DEFAULT_THETA);
        let partial = number("partial_rotary_factor")?.unwrap_or(1.0);
        let plain = RopeSpec {
            theta,
            rotary_dim: head_dim,
            // These checkpoints pair the halves of a head, whatever converters make of them.
            style: RopeStyle::Neox,
            scaling: RopeScaling::None,
            attention_factor: 1.0,
        };
        let rotary_dim = (head_dim as f32 * partial) as usize;
        ensure!(
            rotary_dim.is_multiple_of(2) && (2..=head_dim).contains(&rotary_dim),
            "{rotary_dim} of a head's {head_dim} channels cannot be rotated"
        );
        let Some(section) = scaling else { return Ok(RopeSpec { rotary_dim, ..plain }) };
        if section.string("rope_type")? == Some("proportional") {
            return Ok(RopeSpec { scaling: proportional(head_dim, rotary_dim), ..plain });
        }
        let scaling = rope_scaling(&section, &text, rotary_dim)?;
        let attention_factor = attention_factor(&scaling, &section, &text)?;
        Ok(RopeSpec { rotary_dim, scaling, attention_factor, ..plain })
    }
}

/// Frequencies are those of the whole head; the pairs behind the first `rotary_dim` channels do not turn.
fn proportional(head_dim: usize, rotary_dim: usize) -> RopeScaling {
    let divisor = |pair: usize| if pair < rotary_dim / 2 { 1.0 } else { f32::INFINITY };
    RopeScaling::Divisors((0..head_dim / 2).map(divisor).collect())
}

/// What multiplies cosines and sines, if the configuration does not say it.
fn attention_factor(
    scaling: &RopeScaling,
    section: &ConfigSection,
    text: &ConfigSection,
) -> anyhow::Result<f32> {
    if let Some(said) = section.positive("attention_factor")? {
        return Ok(said);
    }
    match scaling {
        RopeScaling::Yarn { factor, .. } => yarn_attention_factor(*factor, section),
        RopeScaling::LongRope { original_context_length, .. } => {
            let length = text.dimension("max_position_embeddings")? as u32;
            Ok(long_rope_growth(length, *original_context_length))
        }
        _ => Ok(1.0),
    }
}

/// The original context, beside the scaling or in the model's own keys.
fn original_context_length(
    section: &ConfigSection,
    text: &ConfigSection,
) -> anyhow::Result<Option<u32>> {
    let length = section.optional_dimension(ORIGINAL)?;
    let length = match length {
        None => text.optional_dimension(ORIGINAL)?,
        length => length,
    };
    Ok(length.map(|length| length as u32))
}

/// Numbers above 0 that divide the frequencies.
fn divisors(section: &ConfigSection, key: &str, len: usize) -> anyhow::Result<Vec<f32>> {
    let divisors = section.numbers(key)?;
    let divisors = divisors.with_context(|| format!("{} is missing", section.name_of(key)))?;
    ensure!(
        divisors.len() == len && divisors.iter().all(|&divisor| divisor > 0.0),
        "{} has {} numbers, not {len} above 0",
        section.name_of(key),
        divisors.len()
    );
    Ok(divisors)
}

/// The paper's growth with the factor; where two scales are given, their quotient.
fn yarn_attention_factor(factor: f32, section: &ConfigSection) -> anyhow::Result<f32> {
    // 0 counts as absent.
    let scale = |key| anyhow::Ok(section.number(key)?.filter(|&scale| scale != 0.0));
    Ok(match (scale("mscale")?, scale("mscale_all_dim")?) {
        (Some(one), Some(all)) => yarn_mscale(factor, one as f32) / yarn_mscale(factor, all as f32),
        _ => yarn_mscale(factor, 1.0),
    })
}

fn rope_scaling(
    section: &ConfigSection,
    text: &ConfigSection,
    rotary_dim: usize,
) -> anyhow::Result<RopeScaling> {
    let (key, kind) = match (section.string("rope_type")?, section.string("type")?) {
        (Some(kind), _) => ("rope_type", kind),
        (None, Some(kind)) => ("type", kind),
        (None, None) => return Ok(RopeScaling::None),
    };
    Ok(match kind {
        // Text alone has the same position on all axes of "mrope".
        "default" | "mrope" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: section.require_positive("factor")? },
        "llama3" => {
            let (low, high) = ("low_freq_factor", "high_freq_factor");
            let low_freq_factor = section.require_positive(low)?;
            let high_freq_factor = section.require_positive(high)?;
            ensure!(
                low_freq_factor < high_freq_factor,
                "{} is {high_freq_factor}, not above {low} {low_freq_factor}",
                section.name_of(high)
            );
            let inside = section.positive(ORIGINAL)?;
            let original_context_length =
                inside.map_or_else(|| text.require_positive(ORIGINAL), Ok)?;
            RopeScaling::Llama3 {
                factor: section.require_positive("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_context_length,
            }
        }
        "yarn" => {
            let context_length = text.dimension("max_position_embeddings")? as u32;
            let said = original_context_length(section, text)?;
            let length = said.unwrap_or(context_length);
            let growth = said.map(|length| context_length as f32 / length as f32);
            RopeScaling::Yarn {
                factor: match (section.positive("factor")?, growth) {
                    (Some(factor), _) | (None, Some(factor)) => factor,
                    (None, None) => section.require_positive("factor")?,
                },
                original_context_length: length,
                beta_fast: section.positive("beta_fast")?.unwrap_or(32.0),
                beta_slow: section.positive("beta_slow")?.unwrap_or(1.0),
                truncate: section.bool("truncate")?.unwrap_or(true),
            }
        }
        "longrope" | "su" => {
            let length = original_context_length(section, text)?;
            let length =
                length.with_context(|| format!("{} is missing", section.name_of(ORIGINAL)))?;
            RopeScaling::LongRope {
                original_context_length: length,
                short: divisors(section, "short_factor", rotary_dim / 2)?,
                long: divisors(section, "long_factor", rotary_dim / 2)?,
            }
        }
        other => bail!(
            "{} is \"{other}\", which is not supported; supported: default, linear, llama3, yarn, \
             longrope, proportional",
            section.name_of(key)
        ),
    })
}
