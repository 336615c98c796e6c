//! Tokens in, tokens out: the model, its memory and the loop that drives them.
//!
//! The walk of a request: `handle` (queue in, stream out) → `engine` (the loop) → the scheduler's `schedule` →
//! `model_runner` (one step) → `step_input` (rows to flat arrays) → `models::decoder` → `layers` → the ops of `kernels` →
//! `sampler` → the scheduler's `update` → `live` (events to the stream).
//!
//! Front-ends need `Engine`, `EngineHandle`, `EngineOptions`, `Request`, `SamplingParams`, `TokenStream`; to open a model
//! also `GgufFile` and `MemoryPlan`.

pub mod model_path;
pub mod weights;

pub use weights::gguf::GgufFile;
