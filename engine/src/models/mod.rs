//! The registry: one small file an architecture, mapping a file's keys to a `DecoderSpec`.

mod bert;
mod block_head;
mod config_keys;
mod config_moe;
mod config_rope;
pub mod decoder;
mod deepseek2;
mod deepseek32;
pub mod draft_head;
mod eagle_head;
pub mod encoder;
mod encoder_keys;
pub mod encoder_spec;
#[cfg(test)]
mod encoder_traces;
mod gemma;
mod gemma2;
mod gemma3;
mod gemma4;
mod gguf_keys;
mod gguf_moe;
mod gguf_rope;
mod glm4moe;
mod gpt_oss;
pub mod head_spec;
mod llama;
mod llama4;
mod mistral3;
#[cfg(test)]
mod mixer_traces;
mod model;
mod modern_bert;
mod nomic_bert;
mod phi3;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen35;
mod qwen3moe;
pub mod rank_head;
mod ranks;
pub mod rope;
mod smollm3;
pub mod spec;
#[cfg(test)]
mod traces;
mod vocabulary;

pub use decoder::Decoder;
pub use draft_head::DraftHead;
pub use encoder::Encoder;
pub use encoder_spec::EncoderSpec;
pub use head_spec::{Features, HeadSpec};
pub use model::{Model, ModelSpec};
pub use spec::DecoderSpec;
pub use vocabulary::Vocabulary;

use anyhow::{Context, bail, ensure};

use crate::pooling::{PoolingKind, PoolingSpec};
use crate::weights::ModelFiles;
use crate::weights::directory::{ModelDirectory, SentenceConfig};
use crate::weights::gguf::GgufFile;
use config_keys::ConfigKeys;
use gguf_keys::Keys;

/// Reads a spec from a file's keys.
type SpecReader = fn(&Keys) -> anyhow::Result<DecoderSpec>;
type ConfigReader = fn(&ConfigKeys) -> anyhow::Result<DecoderSpec>;

/// `general.architecture` → how to read its spec.
const ARCHITECTURES: [(&str, SpecReader); 21] = [
    ("llama", llama::spec),
    ("llama4", llama4::spec),
    ("qwen2", qwen2::spec),
    ("qwen2moe", qwen2moe::spec),
    ("qwen3", qwen3::spec),
    ("qwen3moe", qwen3moe::spec),
    ("qwen3next", qwen35::next),
    ("qwen35", qwen35::spec),
    ("qwen35moe", qwen35::spec_with_experts),
    ("gemma2", gemma2::spec),
    ("gemma3", gemma3::spec),
    ("gemma4", gemma4::spec),
    ("deepseek2", deepseek2::spec),
    ("deepseek32", deepseek32::spec),
    ("glm-dsa", deepseek32::glm),
    ("mistral4", deepseek2::mistral4),
    ("glm4moe", glm4moe::spec),
    ("gpt-oss", gpt_oss::spec),
    ("phi3", phi3::spec),
    ("smollm3", smollm3::spec),
    ("mistral3", mistral3::spec),
];

/// `model_type` of a config.json → the architecture, and how to read its spec.
const MODEL_TYPES: &[(&str, &str, ConfigReader)] = &[
    ("llama", "llama", llama::spec_of_config),
    ("mistral", "llama", llama::spec_of_config),
    ("qwen2", "qwen2", qwen2::spec_of_config),
    ("qwen3", "qwen3", qwen3::spec_of_config),
    ("mixtral", "llama", llama::mixtral_of_config),
    ("qwen2_moe", "qwen2moe", qwen2moe::spec_of_config),
    ("qwen3_moe", "qwen3moe", qwen3moe::spec_of_config),
    ("qwen3_next", "qwen3next", qwen35::next_of_config),
    ("qwen3_5", "qwen35", qwen35::spec_of_config),
    ("qwen3_5_text", "qwen35", qwen35::spec_of_config),
    ("qwen3_5_moe", "qwen35moe", qwen35::moe_of_config),
    ("qwen3_5_moe_text", "qwen35moe", qwen35::moe_of_config),
    ("glm4_moe", "glm4moe", glm4moe::spec_of_config),
    ("gpt_oss", "gpt-oss", gpt_oss::spec_of_config),
    ("deepseek_v3", "deepseek2", deepseek2::spec_of_config),
    ("glm4_moe_lite", "deepseek2", deepseek2::spec_of_config),
    ("deepseek_v32", "deepseek32", deepseek32::spec_of_config),
    ("glm_moe_dsa", "glm-dsa", deepseek32::glm_of_config),
    ("mistral4", "mistral4", deepseek2::mistral4_of_config),
    ("llama4_text", "llama4", llama4::spec_of_config),
    ("gemma2", "gemma2", gemma2::spec_of_config),
    ("gemma3_text", "gemma3", gemma3::spec_of_config),
    ("gemma4_text", "gemma4", gemma4::spec_of_config),
    ("phi3", "phi3", phi3::spec_of_config),
    ("smollm3", "smollm3", smollm3::spec_of_config),
    ("ministral3", "mistral3", mistral3::spec_of_config),
];

type EncoderReader = fn(&Keys) -> anyhow::Result<EncoderSpec>;
type EncoderConfigReader = fn(&ConfigKeys) -> anyhow::Result<EncoderSpec>;

/// As `ARCHITECTURES`, of encoders.
const ENCODERS: [(&str, EncoderReader); 3] =
    [("bert", bert::spec), ("modern-bert", modern_bert::spec), ("nomic-bert", nomic_bert::spec)];

/// As `MODEL_TYPES`, of encoders.
const ENCODER_TYPES: &[(&str, &str, EncoderConfigReader)] = &[
    ("bert", "bert", bert::spec_of_config),
    ("roberta", "bert", bert::roberta_of_config),
    ("xlm-roberta", "bert", bert::roberta_of_config),
    ("camembert", "bert", bert::roberta_of_config),
    ("modernbert", "modern-bert", modern_bert::spec_of_config),
    ("nomic_bert", "nomic-bert", nomic_bert::spec_of_config),
];

/// What of a class name in `architectures` tells a model that writes text.
const TEXT_GENERATORS: [&str; 3] = ["ForCausalLM", "ForConditionalGeneration", "LMHeadModel"];

/// An architecture that can be loaded, for lists.
#[derive(Clone, Debug)]
pub struct Supported {
    /// As GGUF names it, also where no such file is read.
    pub architecture: &'static str,
    pub has_gguf: bool,
    /// Of directories.
    pub model_types: Vec<&'static str>,
}

/// Every architecture, those of GGUF files first.
pub fn supported() -> Vec<Supported> {
    let mut names: Vec<&'static str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
    for (_, name, _) in MODEL_TYPES {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let decoders = names.into_iter().map(|architecture| {
        let types = MODEL_TYPES.iter().filter(|(_, name, _)| *name == architecture);
        Supported {
            architecture,
            has_gguf: ARCHITECTURES.iter().any(|(name, _)| *name == architecture),
            model_types: types.map(|(model_type, ..)| *model_type).collect(),
        }
    });
    let encoders = ENCODERS.iter().map(|&(architecture, _)| {
        let types = ENCODER_TYPES.iter().filter(|(_, name, _)| *name == architecture);
        let model_types = types.map(|(model_type, ..)| *model_type).collect();
        Supported { architecture, has_gguf: true, model_types }
    });
    decoders.chain(encoders).collect()
}

/// The spec of a model, or an error that names the architecture or key.
pub fn spec_of(files: &ModelFiles) -> anyhow::Result<ModelSpec> {
    match files {
        ModelFiles::Gguf(file) => spec_of_gguf(file),
        ModelFiles::Directory(directory) => spec_of_directory(directory),
        ModelFiles::Dummy(dummy) => spec_of_directory(dummy.directory()),
    }
}

fn spec_of_gguf(file: &GgufFile) -> anyhow::Result<ModelSpec> {
    let name = file.metadata().require_string("general.architecture")?;
    if let Some((name, read)) = ENCODERS.iter().find(|(known, _)| *known == name) {
        return read(&Keys::new(file, name)).map(ModelSpec::Encoder);
    }
    let Some((name, read)) = ARCHITECTURES.iter().find(|(known, _)| *known == name) else {
        let decoders = ARCHITECTURES.iter().map(|(name, _)| *name);
        let supported: Vec<&str> = decoders.chain(ENCODERS.map(|(name, _)| name)).collect();
        bail!("the architecture \"{name}\" is not supported; supported: {}", supported.join(", "));
    };
    let keys = Keys::new(file, name);
    let spec = read(&keys)?;
    if let (None, Some(count)) = (&spec.moe, keys.optional_dimension("expert_count")?) {
        bail!("mixture of experts ({count} experts) is not supported yet for {name}");
    }
    Ok(ModelSpec::Decoder(spec))
}

pub(crate) fn spec_of_directory(directory: &ModelDirectory) -> anyhow::Result<ModelSpec> {
    let text = directory.config().text();
    let name = text.string("model_type")?;
    let name = name.with_context(|| format!("{} is missing", text.name_of("model_type")))?;
    let encoder = ENCODER_TYPES.iter().find(|(known, ..)| *known == name);
    let decoder = MODEL_TYPES.iter().find(|(known, ..)| *known == name);
    let (architecture, spec) = match (encoder, decoder) {
        (Some((_, architecture, read)), _) => {
            let mut spec = read(&ConfigKeys::new(directory, architecture))?;
            if let Some(length) = SentenceConfig::read(directory.path())?.max_seq_length {
                spec.context_length = spec.context_length.min(length);
            }
            (architecture, ModelSpec::Encoder(spec))
        }
        (None, Some((_, architecture, read))) => {
            (architecture, ModelSpec::Decoder(decoder_of(directory, architecture, *read)?))
        }
        (None, None) => {
            let decoders = MODEL_TYPES.iter().map(|(name, ..)| *name);
            let encoders = ENCODER_TYPES.iter().map(|(name, ..)| *name);
            bail!(
                "{}: the architecture \"{name}\" is not supported; supported: {}",
                directory.path().display(),
                decoders.chain(encoders).collect::<Vec<_>>().join(", ")
            )
        }
    };
    if let Some(tensor) = directory.unknown_tensor() {
        bail!("tensor {tensor:?} has no place in a {architecture} model");
    }
    Ok(spec)
}

fn decoder_of(
    directory: &ModelDirectory,
    architecture: &'static str,
    read: ConfigReader,
) -> anyhow::Result<DecoderSpec> {
    let is_headless = is_headless(directory);
    if let Some(class) = directory.config().top().first_string("architectures") {
        ensure!(
            is_headless || TEXT_GENERATORS.iter().any(|ending| class.ends_with(ending)),
            "{}: {class} is no model that writes text",
            directory.path().display()
        );
    }
    let mut spec = read(&ConfigKeys::new(directory, architecture))?;
    // Where there is no head, none is loaded.
    spec.tied_embeddings |= is_headless;
    let has_qk_norm = directory.has_tensor("blk.0.attn_q_norm.weight");
    ensure!(
        spec.qk_norm || !has_qk_norm || directory.unknown_tensor().is_some(),
        "a {architecture} model has no norms of q and k, but the files do"
    );
    Ok(spec)
}

/// A decoder whose class says that its hidden states are all it is for ("Qwen2Model").
fn is_headless(directory: &ModelDirectory) -> bool {
    let class = directory.config().top().first_string("architectures").unwrap_or_default();
    class.ends_with("Model") && !class.ends_with("LMHeadModel")
}

/// Whether the model is one that writes text, not one for embeddings alone.
pub fn writes_text(files: &ModelFiles, spec: &ModelSpec) -> bool {
    match files {
        ModelFiles::Gguf(_) => !spec.is_encoder(),
        ModelFiles::Directory(directory) => !spec.is_encoder() && !is_headless(directory),
        ModelFiles::Dummy(_) => true,
    }
}

/// How the model's files make embeddings, but for the kind that is `asked` for; a decoder's default is the last token's
/// hidden state.
pub fn pooling_of(
    files: &ModelFiles,
    spec: &ModelSpec,
    asked: Option<PoolingKind>,
) -> anyhow::Result<PoolingSpec> {
    let default = match spec {
        ModelSpec::Decoder(_) => PoolingKind::Last,
        ModelSpec::Encoder(_) => PoolingKind::Mean,
    };
    if let (ModelSpec::Encoder(EncoderSpec { rank_head: Some(head), .. }), None) = (spec, asked) {
        ensure!(
            head.num_labels == 1,
            "a classifier of {} classes is not supported, only rerankers, which have one; --pooling {} \
             leaves its head out and makes embeddings",
            head.num_labels,
            head.pooling.name()
        );
        let (kind, scores) = (head.pooling, Some(head.activation));
        return Ok(PoolingSpec { kind, normalize: false, scores });
    }
    let (kind, normalize) = match files {
        ModelFiles::Directory(directory) => {
            let config = SentenceConfig::read(directory.path())?;
            (config.pooling, config.normalize)
        }
        ModelFiles::Dummy(_) => (None, None),
        ModelFiles::Gguf(file) => {
            let key = format!("{}.pooling_type", spec.architecture());
            // As llama.cpp numbers them.
            let number = file.metadata().u32(&key)?;
            ensure!(
                asked.is_some() || spec.is_encoder() || !rank_head::is_rank_pooling(number),
                "a reranker that is a decoder is not supported yet (it pools by rank); --pooling last makes \
                 embeddings of it"
            );
            let kind = match number {
                Some(1) => Some(PoolingKind::Mean),
                Some(2) => Some(PoolingKind::Cls),
                Some(3) => Some(PoolingKind::Last),
                _ => None,
            };
            (kind, None)
        }
    };
    let kind = asked.or(kind);
    if kind.is_none() && spec.is_encoder() {
        tracing::warn!(
            "the model's files do not say how it pools: embeddings are the mean of all tokens \
             (--pooling)"
        );
    }
    let normalize = normalize.unwrap_or(true);
    Ok(PoolingSpec { kind: kind.unwrap_or(default), normalize, scores: None })
}
