//! What the driver answers, as errors that name the call.

use std::ffi::CStr;

use cudarc::driver::sys::{CUresult, cuGetErrorName, is_culib_present};

use crate::device::DeviceError;

/// The driver that belongs to the toolkit the kernels are compiled with, as `cuDriverGetVersion` counts.
pub(super) const OLDEST_DRIVER: i32 = 13_000;

/// Whether there is a driver to load. To be asked before any other call: the bindings panic where there is none.
pub(super) fn is_present() -> bool {
    // SAFETY: only opens the library.
    unsafe { is_culib_present() }
}

/// `what` is the call that answered `result`.
pub(super) fn check(what: &str, result: CUresult) -> Result<(), DeviceError> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        result => Err(DeviceError::Cuda(format!("{what}: {}", name_of(result)))),
    }
}

/// As `check`, where only a fault of the device or a bug of Quire can be the cause.
#[track_caller]
pub(super) fn expect(what: &str, result: CUresult) {
    if let Err(error) = check(what, result) {
        panic!("{error}");
    }
}

pub(super) fn name_of(result: CUresult) -> String {
    let mut name = std::ptr::null();
    // SAFETY: the driver answers with a string that lives as long as the process, or with null.
    unsafe {
        let _ = cuGetErrorName(result, &raw mut name);
        match name.is_null() {
            true => format!("error {}", result as u32),
            false => CStr::from_ptr(name).to_string_lossy().into_owned(),
        }
    }
}
