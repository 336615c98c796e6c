//! Tokens in, tokens out: the model, its memory and the loop that drives them.
//!
//! The walk of a request: `handle` (queue in, stream out) → `engine` (the loop) → the scheduler's `schedule` →
//! `step_runner` (on which thread) → `model_runner` (one step) → `step_input` (rows to flat arrays) → `models::decoder` →
//! `layers` → the ops of `kernels` → `sampler`, or `pooling` for embeddings → the scheduler's `update` → `live` (events to the stream).
//!
//! Front-ends need `Engine`, `EngineHandle`, `EngineOptions`, `Request`, `SamplingParams`, `TokenStream`; to open a model
//! also `ModelFiles` and `MemoryPlan`.

mod activations;
mod branches;
mod cache_layout;
mod compute;
pub mod config;
pub mod constraint;
pub mod draft_trial;
pub mod engine;
mod gpu;
pub mod handle;
pub mod hidden_states;
mod kv_cache;
mod layers;
mod live;
mod load;
pub mod machine;
mod masks;
mod metrics;
pub mod model_path;
pub mod model_runner;
pub mod models;
pub mod plan;
mod plan_encoder;
pub mod pooling;
mod ranks;
pub mod request;
pub mod router;
mod sampler;
pub mod sequence_table;
mod speculative;
mod step_input;
mod step_runner;
pub mod validate;
pub mod view;
mod weight_bytes;
pub mod weights;
mod workspace;

pub use config::{EngineConfig, EngineOptions};
pub use constraint::{Constraint, TokenMask};
pub use engine::{CacheSink, Engine};
pub use handle::{EngineHandle, EngineInfo, TokenStream};
pub use machine::Machine;
pub use plan::MemoryPlan;
pub use pooling::{PoolingKind, PoolingParams, ScoreActivation};
pub use quire_scheduler::CacheEvent;
pub use request::{Request, SamplingParams};
pub use weights::ModelFiles;
pub use weights::gguf::GgufFile;
