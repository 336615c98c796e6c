//! The front-ends over a stand-in for the engine: bodies, errors, access, lifecycle.

#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

mod access;
mod bad_requests;
mod chat;
mod completions;
mod connections;
mod console;
mod embeddings;
mod extras;
mod grpc;
mod grpc_bodies;
mod hostile;
mod http2;
mod kv_events;
mod lifecycle;
mod openapi;
mod process;
mod responses;
mod score;
mod structured;
mod support;
mod tenants;
mod tls;
mod tools;
mod traces;
mod vllm_engine;
mod workers;
