//! What lets a row see those before it: attention of one kind or the other, or a recurrent state.

use anyhow::bail;
use quire_kernels::{Device, Indices, LinearWeight};

use super::{Attention, BlockNorm, GatedDeltaNet, LatentAttention, Positions};
use crate::kv_cache::KvCache;
use crate::models::spec::{DecoderSpec, LayerSpec};
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// The first block of a layer.
#[expect(clippy::large_enum_variant, reason = "one a layer")]
pub enum Mixer {
    Heads(Attention),
    Latent(LatentAttention),
    GatedDelta(GatedDeltaNet),
}

impl Mixer {
    pub fn load(
        spec: &DecoderSpec,
        layer: &LayerSpec,
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        Ok(match (layer.is_recurrent, &spec.gated_delta, &spec.latent) {
            (true, Some(heads), _) => Self::GatedDelta(GatedDeltaNet::load(spec, heads, loader)?),
            (true, None, _) => {
                bail!("a layer has Gated DeltaNet, but the model has no heads of it")
            }
            (false, _, Some(latent)) => {
                Self::Latent(LatentAttention::load(spec, layer, latent, loader)?)
            }
            (false, _, None) => Self::Heads(Attention::load(spec, layer, loader)?),
        })
    }

    /// In the order of their use.
    pub fn weights_mut(&mut self) -> Vec<&mut LinearWeight> {
        match self {
            Self::Heads(attention) => attention.weights_mut().into(),
            Self::Latent(attention) => attention.weights_mut(),
            Self::GatedDelta(net) => net.weights_mut().into(),
        }
    }

    /// The rows of the step after `norm` → `ws.attention_out`, writing what layer `index` keeps of them.
    pub fn attend(
        &self,
        device: &Device,
        ws: &mut Workspace,
        norm: BlockNorm,
        (kv, index): (&mut KvCache, usize),
        (step, positions): (&StepInput, &Positions),
    ) {
        let at = (&step.of_group(kv.group(index)), positions);
        match self {
            Self::Heads(attention) => attention.attend(device, ws, norm, kv.layer_mut(index), at),
            Self::Latent(attention) => attention.attend(device, ws, norm, (kv, index), at),
            Self::GatedDelta(net) => net.attend(device, ws, norm, kv.states_mut(index), step),
        }
    }

    /// `ws.attention_out` → `ws.block_out`.
    pub fn project(&self, device: &Device, ws: &mut Workspace, n: usize) {
        match self {
            Self::Heads(attention) => attention.output.project(device, ws, n),
            Self::Latent(attention) => attention.project(device, ws, n),
            Self::GatedDelta(net) => net.output.project(device, ws, n),
        }
    }

    /// As `project`, with only the rows `kept` of the step, and those of `ws.residual`, from here on.
    pub fn project_rows(&self, device: &Device, ws: &mut Workspace, kept: Indices) {
        match self {
            Self::Heads(attention) => attention.output.project_rows(device, ws, kept),
            Self::Latent(attention) => attention.project_rows(device, ws, kept),
            Self::GatedDelta(net) => net.output.project_rows(device, ws, kept),
        }
    }
}
