//! The registry: one small file an architecture, mapping a file's keys to a `DecoderSpec`.

mod config_keys;
mod config_moe;
mod config_rope;
pub mod decoder;
mod deepseek2;
mod deepseek32;
mod gemma;
mod gemma2;
mod gemma3;
mod gemma4;
mod gguf_keys;
mod gguf_moe;
mod gguf_rope;
mod glm4moe;
mod gpt_oss;
mod llama;
mod llama4;
mod mistral3;
mod phi3;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen35;
mod qwen3moe;
mod ranks;
pub mod rope;
mod smollm3;
pub mod spec;
#[cfg(test)]
mod traces;

pub use decoder::Decoder;
pub use spec::DecoderSpec;

use anyhow::{Context, bail, ensure};

use crate::weights::ModelFiles;
use crate::weights::directory::ModelDirectory;
use crate::weights::gguf::GgufFile;
use config_keys::ConfigKeys;
use gguf_keys::Keys;

/// Reads a spec from a file's keys.
type SpecReader = fn(&Keys) -> anyhow::Result<DecoderSpec>;
type ConfigReader = fn(&ConfigKeys) -> anyhow::Result<DecoderSpec>;

/// `general.architecture` → how to read its spec.
const ARCHITECTURES: [(&str, SpecReader); 20] = [
    ("llama", llama::spec),
    ("llama4", llama4::spec),
    ("qwen2", qwen2::spec),
    ("qwen2moe", qwen2moe::spec),
    ("qwen3", qwen3::spec),
    ("qwen3moe", qwen3moe::spec),
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
    let of_name = |architecture| {
        let types = MODEL_TYPES.iter().filter(|(_, name, _)| *name == architecture);
        Supported {
            architecture,
            has_gguf: ARCHITECTURES.iter().any(|(name, _)| *name == architecture),
            model_types: types.map(|(model_type, ..)| *model_type).collect(),
        }
    };
    names.into_iter().map(of_name).collect()
}

/// The spec of a model, or an error that names the architecture or key.
pub fn spec_of(files: &ModelFiles) -> anyhow::Result<DecoderSpec> {
    match files {
        ModelFiles::Gguf(file) => spec_of_gguf(file),
        ModelFiles::Directory(directory) => spec_of_directory(directory),
    }
}

fn spec_of_gguf(file: &GgufFile) -> anyhow::Result<DecoderSpec> {
    let name = file.metadata().require_string("general.architecture")?;
    let Some((name, read)) = ARCHITECTURES.iter().find(|(known, _)| *known == name) else {
        bail!(
            "the architecture \"{name}\" is not supported; supported: {}",
            ARCHITECTURES.map(|(name, _)| name).join(", ")
        );
    };
    let keys = Keys::new(file, name);
    let spec = read(&keys)?;
    if let (None, Some(count)) = (&spec.moe, keys.optional_dimension("expert_count")?) {
        bail!("mixture of experts ({count} experts) is not supported yet for {name}");
    }
    Ok(spec)
}

fn spec_of_directory(directory: &ModelDirectory) -> anyhow::Result<DecoderSpec> {
    let (top, text) = (directory.config().top(), directory.config().text());
    let name = text.string("model_type")?;
    let name = name.with_context(|| format!("{} is missing", text.name_of("model_type")))?;
    let Some((_, architecture, read)) = MODEL_TYPES.iter().find(|(known, ..)| *known == name)
    else {
        bail!(
            "{}: the architecture \"{name}\" is not supported; supported: {}",
            directory.path().display(),
            MODEL_TYPES.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
        );
    };
    if let Some(class) = top.first_string("architectures") {
        ensure!(
            TEXT_GENERATORS.iter().any(|ending| class.ends_with(ending)),
            "{}: {class} is no model that writes text",
            directory.path().display()
        );
    }
    let spec = read(&ConfigKeys::new(directory, architecture))?;
    if let Some(tensor) = directory.unknown_tensor() {
        bail!("tensor {tensor:?} has no place in a {architecture} model");
    }
    let has_qk_norm = directory.has_tensor("blk.0.attn_q_norm.weight");
    ensure!(
        spec.qk_norm || !has_qk_norm,
        "a {architecture} model has no norms of q and k, but the files do"
    );
    Ok(spec)
}
