//! Timings as shares of the machine's limits, a load client for any OpenAI server, and random-weight models.
//!
//! Seven programs: `kernels` (ops), `offline` and `speculative` (the engine in this process), `host_step` (what a GPU's host does
//! in a step), `gpu` (all of it on a GPU), `client` (a server over HTTP) and `random_model` (GGUF files). See README.md.

pub mod attention_shapes;
pub mod gpu;
pub mod http;
pub mod linear_shapes;
pub mod load;
pub mod machine;
pub mod model_work;
pub mod process;
pub mod prompts;
pub mod random_model;
pub mod report;
pub mod statistics;
pub mod stream;
pub mod timing;
pub mod vocabulary;
pub mod workloads;
