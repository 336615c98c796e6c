//! The operations of a language model at the granularity of a language model: tensors in, tensors out.
//!
//! One folder an operation: `mod.rs` (formula, shape asserts, one `match` on the device), `reference.rs` (the plain
//! loop: the oracle), `cpu.rs` (the fast path), `cases.rs` (the shapes that test it and time it).
//! This crate knows rows and blocks, not sequences or requests. It is the only crate with `unsafe` code.
#![allow(
    unsafe_code,
    reason = "SIMD, the worker pool and device memory live here and nowhere else"
)]

pub mod attention;
pub mod cases;
pub mod copy_blocks;
pub mod cpu;
pub mod device;
pub mod embedding;
pub mod gather_rows;
pub mod kv_layer;
pub mod linear;
pub mod mapped_file;
pub mod rms_norm;
pub mod rope_write_kv;
pub mod sample;
pub mod silu_mul;
pub mod tensor;

pub use attention::{AttentionBatch, AttentionSpec, attention};
pub use copy_blocks::copy_blocks;
pub use device::{Device, DeviceError};
pub use embedding::embedding;
pub use gather_rows::gather_rows;
pub use kv_layer::KvLayer;
pub use linear::{
    ActivationPrecision, LinearError, LinearWeight, WeightFormat, WeightPolicy, dequantize_row,
    linear,
};
pub use mapped_file::MappedFile;
pub use rms_norm::{add_rms_norm, rms_norm};
pub use rope_write_kv::{HeadNorm, RopeStyle, RopeTable, RopeWriteKv, rope_write_kv};
pub use sample::{SampleRow, Sampled, logprobs, sample};
pub use silu_mul::silu_mul;
pub use tensor::{DType, Tensor, View, ViewMut};
