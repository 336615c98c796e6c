//! safetensors and the directories they lie in: what is read, and that nothing in a file can break it.
#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod directories;
mod encoders;
mod fuzz;
mod log;
mod malformed;
mod quantized;
mod support;
