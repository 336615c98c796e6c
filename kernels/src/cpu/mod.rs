//! What all CPU paths share: the worker pool and the choice of instruction set.

pub mod limits;
pub(crate) mod math;
mod pool;
mod simd;

pub use pool::ThreadPool;
pub use simd::SimdLevel;
