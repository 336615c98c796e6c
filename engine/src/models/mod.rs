//! The registry: one small file an architecture, mapping a file's keys to a `DecoderSpec`.

pub mod decoder;
mod gguf_keys;
mod llama;
mod qwen2;
mod qwen3;
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
const ARCHITECTURES: [(&str, SpecReader); 3] =
    [("llama", llama::spec), ("qwen2", qwen2::spec), ("qwen3", qwen3::spec)];

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
