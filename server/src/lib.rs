//! Text and HTTP over the engine.

pub mod app;
pub mod error;
mod generation;
pub mod http;
pub mod limits;
pub mod metrics;
pub mod model;
mod retry;
mod routes;
pub mod serve;
pub mod text;
