//! Where an op runs: the enum that every op matches on.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::cpu::{SimdLevel, StayNear, ThreadPool};
pub use crate::cuda::CudaDevice;
use crate::cuda::{Context, DeviceBuffer};
use crate::tensor::{DType, Tensor};

/// Why a device cannot be had, or cannot give memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// This build holds no CUDA kernels.
    CudaNotBuilt,
    /// There is no libcuda to load.
    NoCudaDriver,
    /// The driver cannot run what the toolkit of this build makes; versions as the driver counts, 13000 for 13.0.
    OldCudaDriver { found: i32, needed: i32 },
    /// The driver sees no GPU.
    NoCudaDevice,
    /// There is no GPU of that number.
    CudaOrdinal { ordinal: usize, count: usize },
    /// The GPU is older than the kernels allow.
    OldCudaDevice { name: String, major: i32, minor: i32 },
    /// There is no libcublasLt to load.
    NoCublasLt,
    /// There is no libnccl to load.
    NoNccl,
    /// The driver's own words.
    Cuda(String),
    /// The allocator refused this many bytes.
    OutOfMemory { bytes: usize },
}

impl std::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CudaNotBuilt => write!(
                f,
                "this build of quire has no CUDA kernels, because nvcc was not found: run `make cuda-toolchain` and \
                 build again, or start it with --device cpu"
            ),
            Self::NoCudaDriver => write!(
                f,
                "no CUDA driver was found (libcuda.so): install the NVIDIA driver, or start with --device cpu"
            ),
            Self::OldCudaDriver { found, needed } => write!(
                f,
                "the CUDA driver supports CUDA {}, but {} is needed: update the NVIDIA driver, or start with --device cpu",
                version(*found),
                version(*needed)
            ),
            Self::NoCudaDevice => {
                write!(f, "the CUDA driver sees no GPU; start with --device cpu")
            }
            Self::CudaOrdinal { ordinal, count } => {
                write!(f, "there is no GPU {ordinal}: this machine has {count}, counted from 0")
            }
            Self::OldCudaDevice { name, major, minor } => write!(
                f,
                "{name} has compute capability {major}.{minor}, 8.0 is needed; start with --device cpu"
            ),
            Self::NoCublasLt => write!(
                f,
                "the library cuBLASLt was not found (libcublasLt.so.13): install it from the CUDA toolkit, or from the \
                 PyPI package nvidia-cublas, and name its folder in LD_LIBRARY_PATH"
            ),
            Self::NoNccl => write!(
                f,
                "the library NCCL was not found (libnccl.so), by which GPUs add up: install it from NVIDIA, or from the \
                 PyPI package nvidia-nccl-cu13, and name the folder of a link libnccl.so to it in LD_LIBRARY_PATH"
            ),
            Self::Cuda(text) => write!(f, "CUDA: {text}"),
            Self::OutOfMemory { bytes } => write!(f, "cannot allocate {bytes} bytes"),
        }
    }
}

/// "12.4" of 12040.
fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

impl std::error::Error for DeviceError {}

/// The closed set of devices; each op has one `match` on it.
pub enum Device {
    Cpu(CpuDevice),
    Cuda(CudaDevice),
    /// Runs only the asserts and logs the ops: snapshot tests of a forward pass without weights.
    Trace(TraceLog),
}

/// Whether a device still works, to be asked from any thread.
#[derive(Clone, Default)]
pub struct DeviceHealth(Option<Arc<Context>>);

impl DeviceHealth {
    /// A kernel has failed, and with it everything that comes later: the driver's name for it. A CPU has no such state.
    pub fn fault(&self) -> Option<String> {
        self.0.as_ref()?.fault()
    }
}

/// A pool of compute threads and the instruction set they use.
pub struct CpuDevice {
    pub pool: ThreadPool,
    pub simd: SimdLevel,
}

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

    /// As `cpu_with`, with the threads of rank `rank` of `num_ranks` that have as many each.
    pub fn cpu_of_rank(
        num_threads: usize,
        simd: SimdLevel,
        (rank, num_ranks): (usize, usize),
    ) -> Self {
        assert!(simd.is_available(), "{simd:?} is not available on this machine");
        Self::Cpu(CpuDevice { pool: ThreadPool::of_rank(num_threads, rank, num_ranks), simd })
    }

    /// GPU number `ordinal`.
    pub fn cuda(ordinal: usize) -> Result<Self, DeviceError> {
        CudaDevice::open(ordinal).map(Self::Cuda)
    }

    /// Keeps the calling thread, which is to run ops, near its memory as long as the result lives.
    pub fn stay_near(&self) -> Option<StayNear> {
        match self {
            Self::Cpu(cpu) => cpu.pool.stay_near(),
            Self::Cuda(_) | Self::Trace(_) => None,
        }
    }

    pub fn health(&self) -> DeviceHealth {
        match self {
            Self::Cuda(cuda) => DeviceHealth(Some(Arc::clone(cuda.context()))),
            Self::Cpu(_) | Self::Trace(_) => DeviceHealth::default(),
        }
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
            Self::Cuda(cuda) => {
                let bytes = rows.checked_mul(cols).and_then(|n| n.checked_mul(dtype.size()));
                let bytes = bytes.ok_or(DeviceError::OutOfMemory { bytes: usize::MAX })?;
                let buffer = DeviceBuffer::zeroed(cuda.context(), bytes)?;
                Ok(Tensor::on_cuda(buffer, dtype, rows, cols))
            }
            Self::Trace(_) => Ok(Tensor::shape_only(dtype, rows, cols)),
        }
    }

    /// `values` as `[rows, cols]` on this device, rounded to `dtype` (F32, F16 or BF16).
    pub fn tensor(
        &self,
        dtype: DType,
        values: &[f32],
        rows: usize,
        cols: usize,
    ) -> Result<Tensor, DeviceError> {
        let mut tensor = self.allocate(dtype, rows, cols)?;
        if !matches!(self, Self::Trace(_)) {
            tensor.write_f32(values);
        }
        Ok(tensor)
    }

    /// The type of what passes from op to op, but for the residual stream and the logits, which are F32 everywhere.
    pub fn activation_dtype(&self) -> DType {
        match self {
            Self::Cpu(_) | Self::Trace(_) => DType::F32,
            Self::Cuda(_) => DType::BF16,
        }
    }
}
