//! Where weights come from: one folder a file format, one loader for all.

pub mod gguf;
mod loader;

pub use loader::{HostTensor, WeightLoader, WeightSource, read_vector};
