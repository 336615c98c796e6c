//! Text, HTTP and gRPC over the engine.

pub mod app;
pub mod error;
mod generation;
pub mod grpc;
pub mod http;
pub mod kv_events;
pub mod limits;
pub mod log_lines;
pub mod metrics;
pub mod model;
pub mod openapi;
pub mod pull;
pub mod registry;
mod reload;
mod retry;
mod routes;
pub mod serve;
pub mod store;
mod structured;
pub mod tenants;
pub mod text;
pub mod traces;
pub mod watchdog;
