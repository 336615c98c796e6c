//! The CUDA device: its context and stream, memory, the kernels that were compiled into this binary, cuBLASLt.
//!
//! Every call goes to the driver through cudarc's bindings, which load the libraries when they are first used: one binary
//! runs with and without a GPU. An error of the driver after start is a panic with its name: the step that met it fails.

mod arguments;
mod context;
mod cublaslt;
mod driver;
mod graph;
mod images;
mod launch;
mod memory;
mod pinned;
pub mod probes;
mod tensor_map;
mod timer;

pub(crate) use arguments::{Argument, Pointer, Structure, bytes_of, word_bytes};
pub(crate) use context::{Context, Limits};
pub(crate) use cublaslt::{Heads, Product};
pub use graph::Graph;
pub use images::{IS_BUILT, PTXAS_REPORT};
pub(crate) use launch::Grid;
pub(crate) use memory::{DeviceBuffer, clear_columns};
pub(crate) use pinned::{PinnedBuffer, PinnedWord};
pub(crate) use tensor_map::{Swizzle, TensorMap};

use std::collections::HashMap;
use std::sync::Arc;

use crate::device::DeviceError;
use launch::Kernel;

/// One GPU: all ops of a model run on its one stream, in order.
pub struct CudaDevice {
    context: Arc<Context>,
    kernels: HashMap<String, Kernel>,
    blas: cublaslt::CublasLt,
    scratch: DeviceBuffer,
    counters: DeviceBuffer,
    few_rows: usize,
}

/// Rows of a product that kernels of our own take; cuBLASLt takes more.
const FEW_ROWS: usize = 16;

/// What a GPU is, and how much of its memory is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// As "NVIDIA H200, compute capability 9.0".
    pub name: String,
    pub free_memory: u64,
    pub total_memory: u64,
    /// Of a block, at most.
    pub shared_bytes: usize,
}

/// Looks at GPU number `ordinal`: an error says why it cannot be used.
pub fn probe(ordinal: usize) -> Result<GpuInfo, DeviceError> {
    let context = Context::open(ordinal)?;
    launch::load_kernels(&context)?;
    let (free_memory, total_memory) = context.memory();
    let (name, shared_bytes) = (context.name().to_owned(), context.limits().shared_bytes);
    Ok(GpuInfo { name, free_memory, total_memory, shared_bytes })
}

/// Bytes of memory that an op may use while it runs, and that the next op writes over.
const SCRATCH_BYTES: usize = 64 << 20;

/// Bytes of counters, which are 0 between ops.
const COUNTER_BYTES: usize = 256 << 10;

impl CudaDevice {
    /// GPU number `ordinal`, with every kernel loaded.
    pub(crate) fn open(ordinal: usize) -> Result<Self, DeviceError> {
        let context = Arc::new(Context::open(ordinal)?);
        let kernels = launch::load_kernels(&context)?;
        let blas = cublaslt::CublasLt::new(&context)?;
        let scratch = DeviceBuffer::zeroed(&context, SCRATCH_BYTES)?;
        let counters = DeviceBuffer::zeroed(&context, COUNTER_BYTES)?;
        Ok(Self { context, kernels, blas, scratch, counters, few_rows: FEW_ROWS })
    }

    /// As "NVIDIA H200, compute capability 9.0".
    pub fn name(&self) -> &str {
        self.context.name()
    }

    pub(crate) fn has_kernel(&self, name: &str) -> bool {
        self.kernels.contains_key(name)
    }

    /// Memory of the op that runs: ops run one after the other.
    pub(crate) fn scratch(&self) -> &DeviceBuffer {
        &self.scratch
    }

    /// Numbers of 32 bits, all 0: the op that uses them leaves them so.
    pub(crate) fn counters(&self) -> &DeviceBuffer {
        &self.counters
    }

    pub(crate) fn few_rows(&self) -> usize {
        self.few_rows
    }

    /// Has products of any number of rows computed as those of few: slower, but then no bit of a row depends on how many
    /// rows there are.
    pub fn set_batch_invariant(&mut self) {
        self.few_rows = usize::MAX;
    }

    pub(crate) fn is_batch_invariant(&self) -> bool {
        self.few_rows == usize::MAX
    }

    pub(crate) fn limits(&self) -> Limits {
        self.context.limits()
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Returns when everything that was launched is done. Panics when a kernel failed.
    pub fn synchronize(&self) {
        self.context.synchronize();
    }
}
