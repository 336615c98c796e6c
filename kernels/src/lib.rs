//! The operations of a language model at the granularity of a language model: tensors in, tensors out.
//!
//! One folder an operation: `mod.rs` (formula, shape asserts, one `match` on the device), `reference.rs` (the plain
//! loop: the oracle), `cpu.rs` (the fast path), `cuda.rs` and its kernels, `cases.rs` (the shapes that test it and time it).
//! This crate knows rows and blocks, not sequences or requests. It is the only crate with `unsafe` code.
#![allow(
    unsafe_code,
    reason = "SIMD, the worker pool and device memory live here and nowhere else"
)]

pub mod activate;
pub mod add_rows;
pub mod all_reduce;
pub mod attention;
pub mod cases;
pub mod causal_conv;
pub mod choose_positions;
pub mod combine_experts;
pub mod copy_blocks;
pub mod copy_heads;
pub mod copy_slots;
pub mod cpu;
pub mod cuda;
pub mod device;
pub mod embedding;
mod float8;
pub mod gated_delta;
pub mod gated_mul;
pub mod gather_rows;
pub mod index_keys;
pub mod index_layer;
pub mod indices;
pub mod kv_layer;
pub mod layer_norm;
pub mod linear;
pub mod mapped_file;
pub mod mean_rows;
pub mod recurrent_layer;
pub mod rms_norm;
pub mod rope_write_kv;
pub mod route_experts;
pub mod sample;
pub mod sandwich_norm;
pub mod scale_by_position;
pub mod sigmoid_gate;
pub mod softcap;
pub mod step_arrays;
pub mod tensor;
pub mod verify_drafts;
pub mod weigh_experts;

pub use activate::activate;
pub use add_rows::add_rows;
pub use all_reduce::{GroupId, RankGroup, all_reduce, gather_columns};
pub use attention::{AttentionBatch, AttentionSpec, Branches, attention, attention_to};
pub use causal_conv::causal_conv;
pub use choose_positions::{IndexSpec, choose_positions};
pub use combine_experts::{SharedExpert, combine_experts};
pub use copy_blocks::copy_blocks;
pub use copy_heads::{CopyHeads, copy_heads, copy_rows};
pub use copy_slots::copy_slots;
pub use device::{Device, DeviceError, DeviceHealth};
pub use embedding::embedding;
pub use gated_delta::{GatedDelta, GatedDeltaSpec, gated_delta};
pub use gated_mul::{Activation, Gated, gated_mul};
pub use gather_rows::gather_rows;
pub use index_keys::{IndexKeysArgs, index_keys};
pub use index_layer::IndexLayer;
pub use indices::Indices;
pub use kv_layer::KvLayer;
pub use layer_norm::{LayerNorm, add_layer_norm, layer_norm, post_layer_norm};
pub use linear::{
    ActivationPrecision, ExpertInput, ExpertWeights, GroupScales, GroupedPart, GroupedWeight,
    HeadStrides, HeadWeights, Input, LinearError, LinearWeight, Numbers, ScaleKind, SelectedRows,
    WeightFormat, WeightPolicy, WordLayout, ZeroLayout, Zeros, dequantize_row, expert_linear,
    head_linear, linear,
};
pub use mapped_file::{FileBytes, MappedFile};
pub use mean_rows::mean_rows;
pub use recurrent_layer::{NO_STATE, RecurrentLayer, StateBatch, StateSegment, StateShape};
pub use rms_norm::{AddNorm, add_rms_norm, rms_norm};
pub use rope_write_kv::{HeadNorm, RopeStyle, RopeTable, RopeWriteKv, rope_queries, rope_write_kv};
pub use route_experts::{
    ExpertGroups, ExpertRouting, RouteExperts, RouterScores, RouterSpec, route_experts,
};
pub use sample::{BansBefore, SampleLimits, SampleRow, SampleTable, Sampled, logprobs, sample};
pub use sandwich_norm::{SandwichNorm, sandwich_norm};
pub use scale_by_position::scale_by_position;
pub use sigmoid_gate::sigmoid_gate;
pub use softcap::softcap;
pub use step_arrays::{StepArrays, StepUpload, TableChange, TakenToken};
pub use tensor::{DType, Tensor, View, ViewMut};
pub use verify_drafts::{Drafts, Verified, verify_drafts};
pub use weigh_experts::weigh_experts;
