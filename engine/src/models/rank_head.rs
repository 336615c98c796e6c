//! The head of a reranker: from the pooled row of a pair of texts to how well they belong together.

use anyhow::{bail, ensure};
use quire_kernels::Activation;
use quire_kernels::gated_mul::reference::gated_mul;
use quire_kernels::layer_norm::reference::layer_norm_row;

use super::encoder_spec::EncoderSpec;
use super::gguf_keys::Keys;
use crate::pooling::{PoolingKind, ScoreActivation};
use crate::weights::WeightLoader;
use crate::weights::directory::ModelDirectory;

/// The head of a `…ForSequenceClassification`: `out(norm(activation(dense(row))))`, of which files may lack parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankHeadSpec {
    /// What of a pair is read.
    pub pooling: PoolingKind,
    pub has_dense: bool,
    pub dense_bias: bool,
    /// GELU, as ModernBERT has it; else the hyperbolic tangent.
    pub is_gelu: bool,
    pub has_norm: bool,
    pub norm_bias: bool,
    pub out_bias: bool,
    /// Logits: one, or the classes of a classifier.
    pub num_labels: usize,
    /// What makes a score of the logit.
    pub activation: ScoreActivation,
}

/// llama.cpp's number of the pooling that runs a head.
const RANK_POOLING: u32 = 4;

/// Whether the file's `pooling_type` asks for a head's scores.
pub(super) fn is_rank_pooling(kind: Option<u32>) -> bool {
    kind == Some(RANK_POOLING)
}

/// The head of a GGUF file that pools by rank.
pub(super) fn of_gguf(keys: &Keys) -> anyhow::Result<Option<RankHeadSpec>> {
    let architecture = keys.architecture();
    let kind = keys.file.metadata().u32(&format!("{architecture}.pooling_type"))?;
    if !is_rank_pooling(kind) {
        return Ok(None);
    }
    let is_modern = architecture == "modern-bert";
    let Some(out) = keys.file.tensor("cls.output.weight") else {
        bail!("the file asks for rank pooling, but has no tensor \"cls.output.weight\"");
    };
    let num_labels = out.dims.get(1).copied().unwrap_or(1);
    let head = of_parts(|name| keys.has_tensor(name), num_labels as usize);
    // As llama.cpp, which keeps neither key of ModernBERT's configuration.
    let pooling = if is_modern { PoolingKind::Mean } else { PoolingKind::Cls };
    Ok(Some(RankHeadSpec { pooling, is_gelu: is_modern, ..head }))
}

/// The head of a classifier's directory.
pub(super) fn of_directory(
    directory: &ModelDirectory,
    architecture: &str,
) -> anyhow::Result<Option<RankHeadSpec>> {
    if !directory.config().is_classifier() {
        return Ok(None);
    }
    let (top, text) = (directory.config().top(), directory.config().text());
    let num_labels = match top.section("id2label")? {
        Some(labels) => labels.len(),
        None => top.optional_dimension("num_labels")?.unwrap_or(1),
    };
    let head = of_parts(|name| directory.has_tensor(name), num_labels);
    let is_modern = architecture == "modern-bert";
    let pooling = match text.string("classifier_pooling")? {
        None | Some("cls") => PoolingKind::Cls,
        Some("mean") => PoolingKind::Mean,
        Some(other) => bail!(
            "{} is \"{other}\"; cls and mean are supported",
            text.name_of("classifier_pooling")
        ),
    };
    if is_modern {
        let given = text.string("classifier_activation")?.unwrap_or("gelu");
        ensure!(
            given == "gelu",
            "{} is \"{given}\"; gelu is supported",
            text.name_of("classifier_activation")
        );
    }
    let own = top.section("sentence_transformers")?;
    let named = match &own {
        Some(own) => own.string("activation_fn")?,
        None => None,
    };
    let named = match named {
        Some(named) => Some(named),
        None => top.string("sbert_ce_default_activation_function")?,
    };
    let activation = match named.and_then(|name| name.rsplit('.').next()) {
        None | Some("Sigmoid") => ScoreActivation::Sigmoid,
        Some("Identity") => ScoreActivation::None,
        Some(other) => {
            bail!("config.json: scores by {other} are not supported; Sigmoid and Identity are")
        }
    };
    Ok(Some(RankHeadSpec { pooling, activation, is_gelu: is_modern, ..head }))
}

/// What the files have of a head.
fn of_parts(has: impl Fn(&str) -> bool, num_labels: usize) -> RankHeadSpec {
    RankHeadSpec {
        pooling: PoolingKind::Cls,
        has_dense: has("cls.weight"),
        dense_bias: has("cls.bias"),
        is_gelu: false,
        has_norm: has("cls.norm.weight"),
        norm_bias: has("cls.norm.bias"),
        out_bias: has("cls.output.bias"),
        num_labels,
        activation: ScoreActivation::Sigmoid,
    }
}

/// The head's numbers, which stay with the host: a row a pair is little work.
pub struct RankHead {
    dense: Option<Linear>,
    is_gelu: bool,
    /// Weight, bias and epsilon of a LayerNorm.
    norm: Option<(Vec<f32>, Vec<f32>, f32)>,
    out: Linear,
}

/// `weight · x + bias`; weight `[bias.len(), x.len()]`.
struct Linear {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl RankHead {
    pub fn load(
        head: RankHeadSpec,
        spec: &EncoderSpec,
        loader: &WeightLoader,
    ) -> anyhow::Result<Self> {
        let hidden = spec.hidden_size;
        let vector = |name: &str, len: usize, is_there: bool| match is_there {
            true => loader.host_vector(name, len),
            false => Ok(vec![0.0; len]),
        };
        let linear = |name: &str, rows: usize, has_bias: bool| {
            let weight = loader.table(&format!("{name}.weight"), rows, hidden)?;
            let bias = vector(&format!("{name}.bias"), rows, has_bias)?;
            anyhow::Ok(Linear { weight, bias })
        };
        let norm = || {
            let weight = loader.host_vector("cls.norm.weight", hidden)?;
            anyhow::Ok((weight, vector("cls.norm.bias", hidden, head.norm_bias)?, spec.norm_eps))
        };
        let dense = head.has_dense.then(|| linear("cls", hidden, head.dense_bias));
        Ok(Self {
            dense: dense.transpose()?,
            is_gelu: head.is_gelu,
            norm: head.has_norm.then(norm).transpose()?,
            out: linear("cls.output", head.num_labels, head.out_bias)?,
        })
    }

    /// The logits of a pooled row.
    pub fn logits(&self, row: &[f32]) -> Vec<f32> {
        let Some(dense) = &self.dense else { return self.out.of(row) };
        let mut inner = dense.of(row);
        for x in &mut inner {
            *x = if self.is_gelu { gated_mul(*x, 1.0, Activation::Gelu) } else { x.tanh() };
        }
        if let Some((weight, bias, eps)) = &self.norm {
            inner = layer_norm_row(&inner, weight, Some(bias), *eps);
        }
        self.out.of(&inner)
    }
}

impl Linear {
    fn of(&self, x: &[f32]) -> Vec<f32> {
        let rows = self.weight.chunks(x.len()).zip(&self.bias);
        let product = |row: &[f32]| -> f64 {
            row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum()
        };
        rows.map(|(row, &bias)| (product(row) + f64::from(bias)) as f32).collect()
    }
}
