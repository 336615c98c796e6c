//! What guesses from the hidden states of a model: an EAGLE head, or a DFlash drafter. Both have layers of their own in the
//! model's cache, and follow each of its steps.

use quire_kernels::{DType, Device, DeviceError, Tensor};

use super::Vocabulary;
use super::block_head::BlockHead;
use super::eagle_head::EagleHead;
use super::head_spec::HeadSpec;
use crate::kv_cache::KvCache;
use crate::step_input::StepInput;
use crate::weights::WeightLoader;
use crate::workspace::Workspace;

/// The weights of either.
#[expect(clippy::large_enum_variant, reason = "one a process")]
pub enum DraftHead {
    Eagle(EagleHead),
    Block(BlockHead),
}

/// Buffers of a head; n = rows.
pub struct HeadWorkspace {
    /// `[n, feature_size]` activations: what the model's layers left.
    pub features: Tensor,
    /// `[n, hidden_size]`, see `HeadSpec::state_dtype`: what rows go on from.
    pub states: Tensor,
    /// `[n, hidden_size]` F32: embeddings, and before them the states of all rows of a step.
    pub embedded: Tensor,
    /// `[n, 2 hidden_size]` activations.
    pub inputs: Tensor,
    /// `residual` has what the rows leave.
    pub layer: Workspace,
}

impl HeadWorkspace {
    pub fn new(
        device: &Device,
        spec: &HeadSpec,
        num_rows: usize,
        num_drafting: usize,
    ) -> Result<Self, DeviceError> {
        let shapes = Self::shapes(spec, device.activation_dtype());
        let [features, states, embedded, inputs] =
            shapes.map(|(dtype, columns)| device.allocate(dtype, num_rows, columns));
        Ok(Self {
            features: features?,
            states: states?,
            embedded: embedded?,
            inputs: inputs?,
            layer: Workspace::of_decoder(device, &spec.decoder, num_rows, num_drafting)?,
        })
    }

    /// Bytes that `new` takes, for planning.
    pub fn num_bytes(
        spec: &HeadSpec,
        num_rows: usize,
        num_drafting: usize,
        activations: DType,
    ) -> u64 {
        let shapes = Self::shapes(spec, activations).into_iter();
        let row_bytes: usize = shapes.map(|(dtype, columns)| columns * dtype.size()).sum();
        let own = num_rows.saturating_mul(row_bytes) as u64;
        own.saturating_add(Workspace::num_bytes(&spec.decoder, num_rows, num_drafting, activations))
    }

    /// Type and columns of each buffer.
    fn shapes(spec: &HeadSpec, activations: DType) -> [(DType, usize); 4] {
        let hidden = spec.decoder.hidden_size;
        [
            (activations, spec.feature_size()),
            (spec.state_dtype(activations), hidden),
            (DType::F32, hidden),
            (activations, 2 * hidden),
        ]
    }
}

impl DraftHead {
    /// Loads every weight; `max_model_len` positions get a rotation.
    pub fn load(
        spec: HeadSpec,
        loader: &WeightLoader,
        max_model_len: usize,
    ) -> anyhow::Result<Self> {
        // It has been read with the specification.
        loader.leave_out("d2t");
        match spec.block {
            Some(_) => BlockHead::load(spec, loader, max_model_len).map(Self::Block),
            None => EagleHead::load(spec, loader, max_model_len).map(Self::Eagle),
        }
    }

    pub fn spec(&self) -> &HeadSpec {
        match self {
            Self::Eagle(head) => head.spec(),
            Self::Block(head) => head.spec(),
        }
    }

    /// After a step of the model: the rows of `step`, from those rows of `ws.features`. The layers of the head lie from
    /// `first_layer` of `kv` on.
    pub fn follow(
        &self,
        at: (&Device, &Vocabulary),
        ws: &mut HeadWorkspace,
        (kv, first_layer): (&mut KvCache, usize),
        (step, rows): (&StepInput, &[u32]),
    ) {
        match self {
            Self::Eagle(head) => {
                head.fuse(at.0, ws, rows);
                head.forward(at, ws, kv.layer_mut(first_layer), step);
            }
            Self::Block(head) => head.follow(at.0, ws, (kv, first_layer), (step, rows)),
        }
    }

    /// The first `n` rows of `ws.states`, a drafter's of `ws.layer.gathered` → logits over the head's vocabulary, in
    /// `ws.layer.logits`.
    pub fn logits(&self, at: (&Device, &Vocabulary), ws: &mut HeadWorkspace, n: usize) {
        match self {
            Self::Eagle(head) => head.logits(at, ws, n),
            Self::Block(_) => {
                let Workspace { gathered, logits, .. } = &mut ws.layer;
                let (out, x) = (logits.first_rows_mut(n), gathered.first_rows(n));
                at.1.project(at.0, out, x);
            }
        }
    }

    /// The model's id of a token of the head.
    pub fn to_target(&self, token: u32) -> u32 {
        self.spec().to_target.as_ref().map_or(token, |map| map[token as usize])
    }
}

/// How many rows of a step hold all of `rows`.
pub(super) fn num_rows_up_to(rows: &[u32]) -> usize {
    rows.iter().max().map_or(0, |&last| last as usize + 1)
}
