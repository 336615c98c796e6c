//! Where an op runs: the enum that every op matches on.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::cpu::{SimdLevel, ThreadPool};
use crate::tensor::{DType, Tensor};

/// Why a device cannot be had, or cannot give memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// This build holds no CUDA kernels.
    CudaNotBuilt,
    /// The allocator refused this many bytes.
    OutOfMemory { bytes: usize },
}

impl std::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CudaNotBuilt => {
                write!(f, "this build of quire has no CUDA kernels; start it with --device cpu")
            }
            Self::OutOfMemory { bytes } => write!(f, "cannot allocate {bytes} bytes"),
        }
    }
}

impl std::error::Error for DeviceError {}

/// The closed set of devices; each op has one `match` on it.
pub enum Device {
    Cpu(CpuDevice),
    Cuda(CudaDevice),
    /// Runs only the asserts and logs the ops: snapshot tests of a forward pass without weights.
    Trace(TraceLog),
}

/// A pool of compute threads and the instruction set they use.
pub struct CpuDevice {
    pub pool: ThreadPool,
    pub simd: SimdLevel,
}

/// No value of this type exists until the CUDA kernels do, so every `match` on it is complete and empty.
pub enum CudaDevice {}

/// The ops that ran on `Device::Trace`, one line each.
#[derive(Clone, Default)]
pub struct TraceLog {
    lines: Arc<Mutex<Vec<String>>>,
}

impl TraceLog {
    pub fn push(&self, line: String) {
        self.lines.lock().push(line);
    }

    /// Everything logged so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().clone()
    }
}

impl Device {
    /// `num_threads` compute threads (the caller's included) and the widest SIMD of this machine.
    pub fn cpu(num_threads: usize) -> Self {
        Self::cpu_with(num_threads, SimdLevel::detect())
    }

    /// As `cpu`, with the instruction set forced; panics when the machine lacks it.
    pub fn cpu_with(num_threads: usize, simd: SimdLevel) -> Self {
        assert!(simd.is_available(), "{simd:?} is not available on this machine");
        Self::Cpu(CpuDevice { pool: ThreadPool::new(num_threads), simd })
    }

    /// GPU number `ordinal`.
    pub fn cuda(_ordinal: usize) -> Result<Self, DeviceError> {
        Err(DeviceError::CudaNotBuilt)
    }

    pub fn trace() -> (Self, TraceLog) {
        let log = TraceLog::default();
        (Self::Trace(log.clone()), log)
    }

    /// Zeroed memory on this device.
    pub fn allocate(&self, dtype: DType, rows: usize, cols: usize) -> Result<Tensor, DeviceError> {
        match self {
            Self::Cpu(_) => Tensor::host(dtype, rows, cols).ok_or(DeviceError::OutOfMemory {
                bytes: rows.saturating_mul(cols).saturating_mul(dtype.size()),
            }),
            Self::Cuda(device) => match *device {},
            Self::Trace(_) => Ok(Tensor::shape_only(dtype, rows, cols)),
        }
    }
}
