//! The server as self-hosted stacks meet it, over tiny models with real engines.

#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod anthropic;
mod ollama;
mod several_models;
mod store;
mod support;
