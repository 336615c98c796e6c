//! Every buffer a step needs, allocated once at start.

use quire_kernels::{DType, Device, DeviceError, ExpertRouting, IndexSpec, Tensor};

use crate::models::spec::{AttentionDims, LatentSpec, MoeSpec};
use crate::models::{DecoderSpec, EncoderSpec, ModelSpec};

/// Named activation buffers; n = tokens of the step, at most `max_num_batched_tokens`. The residual stream and the logits
/// are F32, the rest is of the device's type for activations.
pub struct Workspace {
    pub residual: Tensor, // [n, hidden_size]
    pub hidden: Tensor,   // [n, hidden_size]
    /// Changes places with `residual` when rows are left out.
    pub kept: Tensor, // [n, hidden_size]
    pub block_out: Tensor, // [n, hidden_size]
    pub qkv: Tensor,      // [n, (num_heads + 2 num_kv_heads) head_dim, or more with gates]
    pub attention_out: Tensor, // [n, num_heads head_dim]
    pub gate_up: Tensor,  // [n, 2 intermediate_size]
    pub activated: Tensor, // [n, intermediate_size]
    pub gathered: Tensor, // [logits rows, hidden_size]
    pub logits: Tensor,   // [logits rows, vocab_size]
    /// `[n, q | k | v]` of models with Gated DeltaNet.
    pub convolved: Option<Tensor>,
    /// Of models with experts.
    pub experts: Option<ExpertWorkspace>,
    /// Of models whose keys and values are made of a latent vector.
    pub latent: Option<LatentWorkspace>,
    /// Of models with per-layer embeddings.
    pub per_layer: Option<PerLayerWorkspace>,
}

/// What per-layer embeddings need; l = layers, s = channels of a layer's vector.
pub struct PerLayerWorkspace {
    pub inputs: Tensor,    // [n l, s], F32
    pub projected: Tensor, // [n l, s]
    /// The finished `inputs`, in the device's type for activations.
    pub vectors: Tensor, // [n l, s]
    pub gate_up: Tensor,   // [n, 2 s]
    pub activated: Tensor, // [n, s]
}

/// What latent attention needs: `down` in F32, for the norms read it, the rest in the device's type for activations.
pub struct LatentWorkspace {
    pub down: Tensor,    // [n, what queries are made of + kept_dim]
    pub normed: Tensor,  // [n, what queries are made of]
    pub queries: Tensor, // [n, num_heads key_dim], later [n, num_heads value_dim]
    /// Of models with an indexer.
    pub index: Option<IndexWorkspace>,
}

/// What an indexer needs; `keys` in F32, for the norm and the scores read it.
pub struct IndexWorkspace {
    pub queries: Tensor, // [n, heads head_dim]
    pub keys: Tensor,    // [n, head_dim + heads]
    pub chosen: Tensor,  // [n, top_k], U32
}

/// What a layer with experts needs; p = n · the experts of a row.
pub struct ExpertWorkspace {
    pub router_logits: Tensor, // [n, num_experts]
    pub routing: ExpertRouting,
    pub gate_up: Tensor,     // [p, 2 intermediate_size]
    pub activated: Tensor,   // [p, intermediate_size]
    pub out: Tensor,         // [p, hidden_size]
    pub shared_out: Tensor,  // [n, hidden_size]
    pub shared_gate: Tensor, // [n, 1]
}

/// Type, rows and columns of the first ten buffers.
type Shapes = [(DType, usize, usize); 10];

/// Rows of logits computed at once; more sampled rows are taken in turns, which changes no bit of any row.
pub const MAX_LOGITS_ROWS: usize = 64;

/// The same on a GPU, which reads the whole head once for all of them.
const MAX_LOGITS_ROWS_ON_GPU: usize = 256;

/// Rows of logits computed at once.
pub fn num_logits_rows(max_num_seqs: usize, activations: DType) -> usize {
    let is_on_gpu = activations == DType::BF16;
    max_num_seqs.clamp(1, if is_on_gpu { MAX_LOGITS_ROWS_ON_GPU } else { MAX_LOGITS_ROWS })
}

impl Workspace {
    pub fn new(
        device: &Device,
        spec: &ModelSpec,
        max_num_batched_tokens: usize,
        max_sampled_rows: usize,
    ) -> Result<Self, DeviceError> {
        match spec {
            ModelSpec::Decoder(spec) => {
                Self::of_decoder(device, spec, max_num_batched_tokens, max_sampled_rows)
            }
            ModelSpec::Encoder(spec) => {
                let activations = device.activation_dtype();
                let (n, sampled) = (max_num_batched_tokens, max_sampled_rows);
                Self::allocate(device, Self::encoder_shapes(spec, n, sampled, activations))
            }
        }
    }

    pub fn of_decoder(
        device: &Device,
        spec: &DecoderSpec,
        max_num_batched_tokens: usize,
        max_sampled_rows: usize,
    ) -> Result<Self, DeviceError> {
        let activations = device.activation_dtype();
        let shapes = Self::shapes(spec, max_num_batched_tokens, max_sampled_rows, activations);
        Ok(Self {
            convolved: match convolved_size(spec) {
                0 => None,
                cols => Some(device.allocate(activations, max_num_batched_tokens, cols)?),
            },
            experts: match &spec.moe {
                Some(moe) => Some(ExpertWorkspace::new(
                    device,
                    moe,
                    spec.hidden_size,
                    max_num_batched_tokens,
                )?),
                None => None,
            },
            latent: match &spec.latent {
                Some(latent) => {
                    Some(LatentWorkspace::new(device, spec, latent, max_num_batched_tokens)?)
                }
                None => None,
            },
            per_layer: match spec.per_layer_inputs {
                Some(size) => {
                    Some(PerLayerWorkspace::new(device, spec, size, max_num_batched_tokens)?)
                }
                None => None,
            },
            ..Self::allocate(device, shapes)?
        })
    }

    fn allocate(device: &Device, shapes: Shapes) -> Result<Self, DeviceError> {
        let [
            residual,
            kept,
            hidden,
            block_out,
            qkv,
            attention_out,
            gate_up,
            activated,
            gathered,
            logits,
        ] = shapes.map(|(dtype, rows, cols)| device.allocate(dtype, rows, cols));
        Ok(Self {
            residual: residual?,
            kept: kept?,
            hidden: hidden?,
            block_out: block_out?,
            qkv: qkv?,
            attention_out: attention_out?,
            gate_up: gate_up?,
            activated: activated?,
            gathered: gathered?,
            logits: logits?,
            convolved: None,
            experts: None,
            latent: None,
            per_layer: None,
        })
    }

    /// As `num_bytes`, of an encoder.
    pub fn encoder_bytes(
        spec: &EncoderSpec,
        max_num_batched_tokens: usize,
        max_sampled_rows: usize,
        activations: DType,
    ) -> u64 {
        let (n, sampled) = (max_num_batched_tokens, max_sampled_rows);
        let shapes = Self::encoder_shapes(spec, n, sampled, activations);
        shapes.iter().map(num_bytes).fold(0, u64::saturating_add)
    }

    /// As `shapes`, of an encoder, which has no logits.
    fn encoder_shapes(
        spec: &EncoderSpec,
        n: usize,
        max_sampled_rows: usize,
        activations: DType,
    ) -> Shapes {
        let hidden = spec.hidden_size;
        [
            (DType::F32, n, hidden),
            (DType::F32, 0, hidden),
            (activations, n, hidden),
            (activations, n, hidden),
            (activations, n, spec.attention.qkv_size()),
            (activations, n, spec.attention.q_size()),
            (activations, n, spec.up_size()),
            (activations, n, spec.intermediate_size),
            (activations, max_sampled_rows.clamp(1, MAX_LOGITS_ROWS), hidden),
            (DType::F32, 0, 0),
        ]
    }

    /// Bytes that `new` takes, for planning.
    pub fn num_bytes(
        spec: &DecoderSpec,
        max_num_batched_tokens: usize,
        max_sampled_rows: usize,
        activations: DType,
    ) -> u64 {
        let shapes = Self::shapes(spec, max_num_batched_tokens, max_sampled_rows, activations);
        let experts = spec.moe.map_or(0, |moe| {
            ExpertWorkspace::num_bytes(&moe, spec.hidden_size, max_num_batched_tokens, activations)
        });
        let latent = spec.latent.map(|latent| {
            LatentWorkspace::shapes(spec, &latent, max_num_batched_tokens, activations)
        });
        let convolved = (activations, max_num_batched_tokens, convolved_size(spec));
        let latent = latent.iter().flatten();
        let latent = latent.map(num_bytes);
        let per_layer = spec
            .per_layer_inputs
            .map(|size| PerLayerWorkspace::shapes(spec, size, max_num_batched_tokens, activations));
        let per_layer = per_layer.iter().flatten().map(num_bytes);
        let index = spec.indexer.map(|indexer| {
            IndexWorkspace::shapes(&indexer.heads, max_num_batched_tokens, activations)
        });
        let per_layer = per_layer.chain(index.iter().flatten().map(num_bytes));
        let shapes = shapes.iter().chain([&convolved]).map(num_bytes).chain(per_layer);
        shapes.chain(latent).fold(experts, u64::saturating_add)
    }

    /// Type, rows and columns of each buffer.
    fn shapes(
        spec: &DecoderSpec,
        num_tokens: usize,
        max_sampled_rows: usize,
        activations: DType,
    ) -> Shapes {
        let (n, hidden) = (num_tokens, spec.hidden_size);
        let logits_rows = num_logits_rows(max_sampled_rows, activations);
        [
            (DType::F32, n, hidden),
            (DType::F32, n, hidden),
            (activations, n, hidden),
            (activations, n, hidden),
            (activations, n, projected_size(spec)),
            (activations, n, spec.largest(AttentionDims::q_size).max(value_size(spec))),
            (activations, n, 2 * spec.intermediate_size()),
            (activations, n, spec.intermediate_size()),
            (activations, logits_rows, hidden),
            (DType::F32, logits_rows, spec.vocab_size),
        ]
    }
}

impl LatentWorkspace {
    fn new(
        device: &Device,
        spec: &DecoderSpec,
        latent: &LatentSpec,
        num_tokens: usize,
    ) -> Result<Self, DeviceError> {
        let activations = device.activation_dtype();
        let [down, normed, queries] = Self::shapes(spec, latent, num_tokens, activations)
            .map(|(dtype, rows, cols)| device.allocate(dtype, rows, cols));
        let index = spec.indexer.map(|indexer| {
            let [queries, keys, chosen] =
                IndexWorkspace::shapes(&indexer.heads, num_tokens, activations)
                    .map(|(dtype, rows, cols)| device.allocate(dtype, rows, cols));
            Ok(IndexWorkspace { queries: queries?, keys: keys?, chosen: chosen? })
        });
        Ok(Self { down: down?, normed: normed?, queries: queries?, index: index.transpose()? })
    }

    fn shapes(
        spec: &DecoderSpec,
        latent: &LatentSpec,
        n: usize,
        activations: DType,
    ) -> [(DType, usize, usize); 3] {
        let num_heads = spec.largest(|dims| dims.num_heads);
        let made_of = latent.query_rank.unwrap_or(num_heads * latent.key_dim());
        let head = latent.key_dim().max(latent.value_dim);
        [
            (DType::F32, n, made_of + latent.kept_dim()),
            (activations, n, made_of),
            (activations, n, num_heads * head),
        ]
    }
}

impl PerLayerWorkspace {
    fn new(
        device: &Device,
        spec: &DecoderSpec,
        size: usize,
        num_tokens: usize,
    ) -> Result<Self, DeviceError> {
        let activations = device.activation_dtype();
        let [inputs, projected, vectors, gate_up, activated] =
            Self::shapes(spec, size, num_tokens, activations)
                .map(|(dtype, rows, cols)| device.allocate(dtype, rows, cols));
        Ok(Self {
            inputs: inputs?,
            projected: projected?,
            vectors: vectors?,
            gate_up: gate_up?,
            activated: activated?,
        })
    }

    fn shapes(
        spec: &DecoderSpec,
        size: usize,
        n: usize,
        activations: DType,
    ) -> [(DType, usize, usize); 5] {
        let rows = n * spec.num_layers();
        [
            (DType::F32, rows, size),
            (activations, rows, size),
            (activations, rows, size),
            (activations, n, 2 * size),
            (activations, n, size),
        ]
    }
}

impl IndexWorkspace {
    fn shapes(heads: &IndexSpec, n: usize, activations: DType) -> [(DType, usize, usize); 3] {
        let &IndexSpec { num_heads, head_dim, top_k } = heads;
        [
            (activations, n, num_heads * head_dim),
            (DType::F32, n, head_dim + num_heads),
            (DType::U32, n, top_k),
        ]
    }
}

/// Columns of what a block projects at first.
fn projected_size(spec: &DecoderSpec) -> usize {
    let gates = |dims: &AttentionDims| if spec.attention_gate { dims.q_size() } else { 0 };
    let attention = spec.largest(|dims| dims.qkv_size() + gates(dims));
    spec.gated_delta.map_or(attention, |recurrent| recurrent.projected_size().max(attention))
}

fn value_size(spec: &DecoderSpec) -> usize {
    spec.gated_delta.map_or(0, |recurrent| recurrent.heads.value_size())
}

fn convolved_size(spec: &DecoderSpec) -> usize {
    spec.gated_delta.map_or(0, |recurrent| recurrent.heads.qkv_size())
}

impl ExpertWorkspace {
    fn new(
        device: &Device,
        moe: &MoeSpec,
        hidden_size: usize,
        num_tokens: usize,
    ) -> Result<Self, DeviceError> {
        let [router_logits, gate_up, activated, out, shared_out, shared_gate] =
            Self::shapes(moe, hidden_size, num_tokens, device.activation_dtype())
                .map(|(dtype, rows, cols)| device.allocate(dtype, rows, cols));
        let router = &moe.router;
        Ok(Self {
            router_logits: router_logits?,
            routing: ExpertRouting::new(device, num_tokens, router.num_experts, router.num_chosen)?,
            gate_up: gate_up?,
            activated: activated?,
            out: out?,
            shared_out: shared_out?,
            shared_gate: shared_gate?,
        })
    }

    fn num_bytes(moe: &MoeSpec, hidden_size: usize, num_tokens: usize, activations: DType) -> u64 {
        let (num_experts, num_chosen) = (moe.router.num_experts, moe.router.num_chosen);
        let shapes = Self::shapes(moe, hidden_size, num_tokens, activations);
        let routing = ExpertRouting::num_bytes(num_tokens, num_experts, num_chosen);
        shapes.iter().map(num_bytes).fold(routing, u64::saturating_add)
    }

    /// Type, rows and columns of each buffer; those of router and gate are logits.
    fn shapes(
        moe: &MoeSpec,
        hidden_size: usize,
        n: usize,
        activations: DType,
    ) -> [(DType, usize, usize); 6] {
        let places = n * moe.router.num_chosen;
        [
            (DType::F32, n, moe.router.num_experts),
            (activations, places, 2 * moe.intermediate_size),
            (activations, places, moe.intermediate_size),
            (activations, places, hidden_size),
            // Changes places with `Workspace::block_out`.
            (activations, n, hidden_size),
            (DType::F32, n, 1),
        ]
    }
}

fn num_bytes(&(dtype, rows, cols): &(DType, usize, usize)) -> u64 {
    (rows as u64).saturating_mul(cols as u64).saturating_mul(dtype.size() as u64)
}
