//! Text and HTTP over the engine.

pub mod text;
