//! Text, HTTP and gRPC over the engine.

pub mod app;
pub mod error;
mod generation;
pub mod grpc;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod model;
mod retry;
mod routes;
pub mod serve;
mod structured;
pub mod text;
