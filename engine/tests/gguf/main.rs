//! The GGUF reader: what it reads, and that nothing in a file can break it.
#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod fuzz;
mod malformed;
mod model_path;
mod splits;
mod support;
mod values;
