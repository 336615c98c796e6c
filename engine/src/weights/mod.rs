//! Where weights come from: one folder a file format, one loader for all.

mod bytes;
mod cut;
pub mod directory;
mod dummy;
mod experts;
mod floats;
pub mod gguf;
mod json;
mod loader;
mod model_files;
pub mod quantized;
mod rows;
pub mod safetensors;
mod shard;

pub use dummy::{Absent, DummyModel};
pub(crate) use floats::is_float;
pub use loader::{HostTensor, WeightLoader, WeightSource, read_vector};
pub use model_files::{ModelFiles, TensorSummary};
pub use shard::Shard;

/// A name out of an untrusted file, fit for one line of a terminal: escaped and cut.
pub(crate) fn quoted(name: &str) -> String {
    const MAX_SHOWN: usize = 100;
    let shown: String = name.chars().take(MAX_SHOWN).collect();
    let more = if shown.len() < name.len() { "…" } else { "" };
    format!("{shown:?}{more}")
}
