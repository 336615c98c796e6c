//! The registry: one small file an architecture, mapping a file's keys to a `DecoderSpec`.

pub mod decoder;
mod gemma;
mod gemma2;
mod gemma3;
mod gemma4;
mod gguf_keys;
mod gguf_rope;
mod llama;
mod mistral3;
mod phi3;
mod qwen2;
mod qwen3;
pub mod rope;
mod smollm3;
pub mod spec;
#[cfg(test)]
mod traces;

pub use decoder::Decoder;
pub use spec::DecoderSpec;

use crate::weights::gguf::GgufFile;
use gguf_keys::Keys;

/// Reads a spec from a file's keys.
type SpecReader = fn(&Keys) -> anyhow::Result<DecoderSpec>;

/// `general.architecture` → how to read its spec.
const ARCHITECTURES: [(&str, SpecReader); 9] = [
    ("llama", llama::spec),
    ("qwen2", qwen2::spec),
    ("qwen3", qwen3::spec),
    ("gemma2", gemma2::spec),
    ("gemma3", gemma3::spec),
    ("gemma4", gemma4::spec),
    ("phi3", phi3::spec),
    ("smollm3", smollm3::spec),
    ("mistral3", mistral3::spec),
];

/// The spec of a GGUF file, or an error that names the architecture or key.
pub fn spec_of(file: &GgufFile) -> anyhow::Result<DecoderSpec> {
    let name = file.metadata().require_string("general.architecture")?;
    let Some((name, read)) = ARCHITECTURES.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|(name, _)| *name).collect();
        anyhow::bail!(
            "the architecture \"{name}\" is not supported; supported: {}",
            known.join(", ")
        );
    };
    read(&Keys::new(file, name))
}
