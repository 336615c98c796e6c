//! What all CPU paths share: the worker pool and the choice of instruction set.

pub mod limits;
pub(crate) mod math;
mod pool;
mod prefetch;
mod simd;
mod topology;

pub use pool::ThreadPool;
pub(crate) use pool::{Phase, ReadAhead, share};
pub(crate) use prefetch::{CACHE_LINE, prefetch_line, prefetch_lines};
pub use simd::SimdLevel;
pub use topology::{StayNear, Topology};
