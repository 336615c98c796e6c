//! Timings as shares of the machine's limits, a load harness for any server, and random-weight models.
//!
//! Eight programs: `kernels` (ops), `offline` and `speculative` (the engine in this process), `host_step` (what a GPU's host does
//! in a step), `gpu` (all of it on a GPU), `quire-bench` (any server), `mock_server` (what it is tried on)
//! and `random_model` (GGUF files). See README.md.

pub mod attention_shapes;
pub mod front_end;
pub mod gpu;
pub mod harness;
pub mod http;
pub mod linear_shapes;
pub mod machine;
pub mod model_work;
pub mod process;
pub mod prompts;
pub mod random_model;
pub mod report;
pub mod statistics;
pub mod streams;
pub mod timing;
pub mod vocabulary;
pub mod workloads;
