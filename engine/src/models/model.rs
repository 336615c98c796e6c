//! A model of either kind: a decoder, which writes text, or an encoder, which is asked for embeddings alone.

use std::ops::Range;

use quire_kernels::{Device, RankGroup};

use super::{Decoder, DecoderSpec, Encoder, EncoderSpec, HeadSpec};
use crate::cache_layout::CacheLayout;
use crate::kv_cache::KvCache;
use crate::step_input::StepInput;
use crate::weights::{Shard, WeightLoader};
use crate::workspace::Workspace;

/// What kind, and its data.
#[expect(clippy::large_enum_variant, reason = "one a process")]
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSpec {
    Decoder(DecoderSpec),
    Encoder(EncoderSpec),
}

/// The weights of either kind.
#[expect(clippy::large_enum_variant, reason = "one a process")]
pub enum Model {
    Decoder(Decoder),
    Encoder(Encoder),
}

impl ModelSpec {
    pub fn architecture(&self) -> &'static str {
        match self {
            Self::Decoder(spec) => spec.architecture,
            Self::Encoder(spec) => spec.architecture,
        }
    }

    pub fn num_layers(&self) -> usize {
        match self {
            Self::Decoder(spec) => spec.num_layers(),
            Self::Encoder(spec) => spec.num_layers(),
        }
    }

    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Decoder(spec) => spec.hidden_size,
            Self::Encoder(spec) => spec.hidden_size,
        }
    }

    /// Every token id lies below it.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Decoder(spec) => spec.vocab_size,
            Self::Encoder(spec) => spec.vocab_size,
        }
    }

    /// Tokens the model was trained for.
    pub fn context_length(&self) -> u32 {
        match self {
            Self::Decoder(spec) => spec.context_length,
            Self::Encoder(spec) => spec.context_length,
        }
    }

    pub fn decoder(&self) -> Option<&DecoderSpec> {
        match self {
            Self::Decoder(spec) => Some(spec),
            Self::Encoder(_) => None,
        }
    }

    /// What a rank computes.
    pub fn of_rank(&self, shard: Shard) -> anyhow::Result<Self> {
        Ok(match self {
            Self::Decoder(spec) => Self::Decoder(spec.of_rank(shard)?),
            Self::Encoder(spec) => Self::Encoder(spec.clone()),
        })
    }

    pub fn is_encoder(&self) -> bool {
        matches!(self, Self::Encoder(_))
    }

    /// What its layers keep of a sequence, and a head's. `on_gpu`: a GPU keeps latent vectors once.
    pub fn cache_layout(&self, head: Option<&HeadSpec>, on_gpu: bool) -> CacheLayout {
        match self {
            Self::Decoder(spec) => match head {
                Some(head) => CacheLayout::new(&head.beside(spec), on_gpu),
                None => CacheLayout::new(spec, on_gpu),
            },
            Self::Encoder(spec) => CacheLayout::of_encoder(spec),
        }
    }
}

impl Model {
    /// Loads every weight but those of the `skipped` layers of a decoder's file; `max_model_len` positions get a rotation.
    pub fn load(
        spec: ModelSpec,
        skipped: &Range<usize>,
        loader: &WeightLoader,
        max_model_len: usize,
    ) -> anyhow::Result<Self> {
        Ok(match spec {
            ModelSpec::Decoder(spec) => {
                Self::Decoder(Decoder::load_without(spec, skipped, loader, max_model_len)?)
            }
            ModelSpec::Encoder(spec) => Self::Encoder(Encoder::load(spec, loader, max_model_len)?),
        })
    }

    /// Has this rank of a decoder meet the others there.
    pub fn set_group(&mut self, group: RankGroup) {
        if let Self::Decoder(decoder) = self {
            decoder.set_group(group);
        }
    }

    /// Where the ranks meet, if there are several.
    pub fn group(&self) -> Option<&RankGroup> {
        match self {
            Self::Decoder(decoder) => decoder.group(),
            Self::Encoder(_) => None,
        }
    }

    /// Runs a step. A decoder leaves the rows of `step.output_rows` in `ws.hidden`, an encoder all.
    pub fn forward(&self, device: &Device, ws: &mut Workspace, kv: &mut KvCache, step: &StepInput) {
        match self {
            Self::Decoder(decoder) => decoder.forward(device, ws, kv, step),
            Self::Encoder(encoder) => encoder.forward(device, ws, kv, step),
        }
    }
}

impl From<Decoder> for Model {
    fn from(decoder: Decoder) -> Self {
        Self::Decoder(decoder)
    }
}
