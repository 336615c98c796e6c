//! The context of one GPU and its stream.

use std::cell::Cell;
use std::ffi::c_char;

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute as Attribute, CUresult, CUstream,
};

use super::driver::{OLDEST_DRIVER, check, expect, is_present, name_of};
use crate::device::DeviceError;

/// The primary context of a GPU and the stream that everything runs on.
pub(crate) struct Context {
    raw: CUcontext,
    device: CUdevice,
    stream: CUstream,
    name: String,
    limits: Limits,
}

/// What kernels are planned with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub multiprocessors: usize,
    /// Bytes of shared memory that a block may ask for.
    pub shared_bytes: usize,
}

// SAFETY: the driver's handles may be used from any thread; `bind` makes the context current there.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

thread_local! {
    /// The context that is current on this thread.
    static CURRENT: Cell<CUcontext> = const { Cell::new(std::ptr::null_mut()) };
}

impl Context {
    pub(super) fn open(ordinal: usize) -> Result<Self, DeviceError> {
        if !is_present() {
            return Err(DeviceError::NoCudaDriver);
        }
        let device = find_device(ordinal)?;
        let name = describe(device)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: `device` exists; the context is given back in `drop`.
        check("cuDevicePrimaryCtxRetain", unsafe {
            sys::cuDevicePrimaryCtxRetain(&raw mut raw, device)
        })?;
        let count = |which| attribute(device, which).map(|value| value as usize);
        let limits = Limits {
            multiprocessors: count(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: count(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        };
        let mut context = Self { raw, device, stream: std::ptr::null_mut(), name, limits };
        context.bind();
        // SAFETY: the context is current.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&raw mut context.stream, 1) })?;
        Ok(context)
    }

    /// Makes the context current on this thread.
    pub(super) fn bind(&self) {
        if CURRENT.get() != self.raw {
            // SAFETY: the context lives as long as `self`.
            expect("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.raw) });
            CURRENT.set(self.raw);
        }
    }

    /// The stream; the context is current on this thread afterwards.
    pub(crate) fn stream(&self) -> CUstream {
        self.bind();
        self.stream
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Bytes free now, and of the whole device.
    pub(super) fn memory(&self) -> (u64, u64) {
        self.bind();
        let (mut free, mut total) = (0, 0);
        // SAFETY: the context is current.
        expect("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) });
        (free as u64, total as u64)
    }

    /// What the driver says of a context in which a kernel has failed: no call works any more. `None`: all is well.
    pub(crate) fn fault(&self) -> Option<String> {
        // SAFETY: context and stream live as long as `self`; a failed context answers with its error.
        let result = unsafe {
            let _ = sys::cuCtxSetCurrent(self.raw);
            CURRENT.set(self.raw);
            sys::cuStreamQuery(self.stream)
        };
        let is_well = matches!(
            result,
            CUresult::CUDA_SUCCESS
                | CUresult::CUDA_ERROR_NOT_READY
                | CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
                | CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        );
        (!is_well).then(|| name_of(result))
    }

    /// Whether kernels here may read and write the memory of `other` from now on.
    pub(crate) fn reach(&self, other: &Self) -> Result<bool, DeviceError> {
        if self.raw == other.raw {
            return Ok(true);
        }
        self.bind();
        let mut can_reach = 0;
        // SAFETY: both devices exist, and the driver writes to the integer.
        check("cuDeviceCanAccessPeer", unsafe {
            sys::cuDeviceCanAccessPeer(&raw mut can_reach, self.device, other.device)
        })?;
        if can_reach == 0 {
            return Ok(false);
        }
        // SAFETY: this context is current, the other lives as long as `other`.
        match unsafe { sys::cuCtxEnablePeerAccess(other.raw, 0) } {
            CUresult::CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED => Ok(true),
            result => check("cuCtxEnablePeerAccess", result).map(|()| true),
        }
    }

    pub(crate) fn synchronize(&self) {
        // SAFETY: a stream of the current context.
        expect("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.stream()) });
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.bind();
        // SAFETY: nobody else has the stream. At the end errors are of no use any more.
        unsafe {
            let _ = sys::cuStreamDestroy_v2(self.stream);
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
        CURRENT.set(std::ptr::null_mut());
    }
}

fn find_device(ordinal: usize) -> Result<CUdevice, DeviceError> {
    let (mut version, mut count, mut device) = (0, 0, 0);
    // SAFETY: the driver writes to the integers it is given.
    unsafe {
        check("cuDriverGetVersion", sys::cuDriverGetVersion(&raw mut version))?;
        if version < OLDEST_DRIVER {
            return Err(DeviceError::OldCudaDriver { found: version, needed: OLDEST_DRIVER });
        }
        match sys::cuInit(0) {
            CUresult::CUDA_ERROR_NO_DEVICE => return Err(DeviceError::NoCudaDevice),
            result => check("cuInit", result)?,
        }
        check("cuDeviceGetCount", sys::cuDeviceGetCount(&raw mut count))?;
        if count == 0 {
            return Err(DeviceError::NoCudaDevice);
        }
        if ordinal >= count as usize {
            return Err(DeviceError::CudaOrdinal { ordinal, count: count as usize });
        }
        check("cuDeviceGet", sys::cuDeviceGet(&raw mut device, ordinal as i32))?;
    }
    Ok(device)
}

/// As "NVIDIA H200, compute capability 9.0"; below 8.0 is an error.
fn describe(device: CUdevice) -> Result<String, DeviceError> {
    let mut name: [c_char; 128] = [0; 128];
    // SAFETY: the driver writes at most so many bytes, the last of them 0.
    check("cuDeviceGetName", unsafe {
        sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device)
    })?;
    let bytes: Vec<u8> = name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    let name = String::from_utf8_lossy(&bytes).into_owned();
    let major = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    if major < 8 {
        return Err(DeviceError::OldCudaDevice { name, major, minor });
    }
    Ok(format!("{name}, compute capability {major}.{minor}"))
}

fn attribute(device: CUdevice, which: Attribute) -> Result<i32, DeviceError> {
    let mut value = 0;
    // SAFETY: the driver writes to the integer.
    check("cuDeviceGetAttribute", unsafe {
        sys::cuDeviceGetAttribute(&raw mut value, which, device)
    })?;
    Ok(value)
}
