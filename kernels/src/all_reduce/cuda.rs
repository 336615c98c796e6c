//! On GPUs, in one launch or by NCCL, on the device's stream like every op: so a step with it can be recorded.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cudarc::nccl::sys::{self, ncclDataType_t, ncclRedOp_t, ncclResult_t};
use parking_lot::Mutex;

use super::{RankGroup, one_shot};
use crate::cuda::{Context, CudaDevice, clear_columns};
use crate::device::DeviceError;
use crate::tensor::{DType, ViewMut};

/// What the ranks of one group have in common: made once, given to each.
#[derive(Clone, Copy)]
pub struct GroupId(sys::ncclUniqueId);

impl GroupId {
    pub fn new() -> Result<Self, DeviceError> {
        // SAFETY: only opens the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoNccl);
        }
        let mut id = MaybeUninit::uninit();
        // SAFETY: the library fills the id.
        unsafe {
            check("ncclGetUniqueId", sys::ncclGetUniqueId(id.as_mut_ptr()))?;
            Ok(Self(id.assume_init()))
        }
    }
}

/// A rank's end of NCCL. It lives until `abort_all`.
pub(super) struct Nccl {
    context: Arc<Context>,
    raw: sys::ncclComm_t,
    /// One call at a time.
    turn: Mutex<()>,
    is_aborted: AtomicBool,
}

// SAFETY: the library's handles may be used from any thread, one at a time, which `turn` sees to.
unsafe impl Send for Nccl {}
// SAFETY: as above.
unsafe impl Sync for Nccl {}

/// How long a rank that is to be aborted may still be in a call.
const PATIENCE: Duration = Duration::from_secs(1);

impl Nccl {
    /// Returns when all ranks have called it.
    pub(super) fn join(
        cuda: &CudaDevice,
        id: GroupId,
        (rank, num_ranks): (usize, usize),
    ) -> Result<Self, DeviceError> {
        let context = Arc::clone(cuda.context());
        // Makes the context current.
        let _ = context.stream();
        let mut raw = std::ptr::null_mut();
        let (rank, num_ranks) = (rank as i32, num_ranks as i32);
        // SAFETY: the context is current, and the library writes the handle.
        check("ncclCommInitRank", unsafe {
            sys::ncclCommInitRank(&raw mut raw, num_ranks, id.0, rank)
        })?;
        Ok(Self { context, raw, turn: Mutex::default(), is_aborted: AtomicBool::new(false) })
    }

    /// What went wrong with sums that were launched before.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        let _turn = self.turn.lock();
        if self.is_aborted.load(Ordering::Acquire) {
            return Err(DeviceError::Cuda("NCCL was aborted".into()));
        }
        let mut error = ncclResult_t::ncclSuccess;
        // SAFETY: the handle lives.
        check("ncclCommGetAsyncError", unsafe {
            sys::ncclCommGetAsyncError(self.raw, &raw mut error)
        })?;
        check("NCCL", error)
    }

    /// `count` numbers that begin at `at`, in place.
    fn sum(&self, at: u64, count: usize, dtype: ncclDataType_t) {
        let _turn = self.turn.lock();
        assert!(!self.is_aborted.load(Ordering::Acquire), "another rank has failed");
        let at = std::ptr::without_provenance_mut(at as usize);
        let (operation, stream) = (ncclRedOp_t::ncclSum, self.context.stream().cast());
        // SAFETY: so many numbers of the device's memory, which live until the stream is done with them.
        let result =
            unsafe { sys::ncclAllReduce(at, at, count, dtype, operation, self.raw, stream) };
        if let Err(error) = check("ncclAllReduce", result) {
            panic!("{error}");
        }
    }
}

/// Ends all sums that wait for a rank, and every later one. The handles of a process are aborted together, as NCCL asks.
pub(super) fn abort_all(ranks: &[Arc<Nccl>]) {
    let first = |nccl: &&Arc<Nccl>| !nccl.is_aborted.swap(true, Ordering::AcqRel);
    let ranks: Vec<&Arc<Nccl>> = ranks.iter().filter(first).collect();
    if ranks.is_empty() {
        return;
    }
    // A call that does not return is one that the abort is to end.
    let _turns: Vec<_> = ranks.iter().map(|nccl| nccl.turn.try_lock_for(PATIENCE)).collect();
    // SAFETY: the handles live, and are used by nobody any more. Errors are of no use.
    unsafe {
        let _ = sys::ncclGroupStart();
        for nccl in &ranks {
            let _ = nccl.context.stream();
            let _ = sys::ncclCommAbort(nccl.raw);
        }
        let _ = sys::ncclGroupEnd();
    }
}

/// Sums of two numbers are the same in each order; of more NCCL has one order for all ranks.
pub(super) fn all_reduce(cuda: &CudaDevice, group: &RankGroup, x: &ViewMut) {
    assert!(x.row_stride() == x.cols() || x.rows() < 2, "there are gaps between rows");
    group.stop_if_failed();
    if let Some(desks) = group.desks().filter(|_| one_shot::takes(cuda, x)) {
        return one_shot::sum(cuda, desks, group.rank(), x);
    }
    let dtype = match x.dtype() {
        DType::F32 => ncclDataType_t::ncclFloat32,
        DType::BF16 => ncclDataType_t::ncclBfloat16,
        dtype => panic!("{dtype:?} is not added up"),
    };
    group.nccl().sum(x.pointer().0, x.rows() * x.cols(), dtype);
}

/// The columns of the other ranks are 0 before all are added up: ranks have shares of different sizes.
pub(super) fn gather_columns(
    cuda: &CudaDevice,
    group: &RankGroup,
    x: &ViewMut,
    columns: Range<usize>,
) {
    let (rows, stride, at) = (x.rows(), x.row_stride(), x.pointer());
    let clear = |columns: Range<usize>| {
        clear_columns(cuda.context(), at.add(4 * columns.start), (rows, columns.len()), stride);
    };
    clear(0..columns.start);
    clear(columns.end..x.cols());
    all_reduce(cuda, group, x);
}

fn check(what: &str, result: ncclResult_t) -> Result<(), DeviceError> {
    if result == ncclResult_t::ncclSuccess {
        return Ok(());
    }
    // SAFETY: the library's string is never freed.
    let text = unsafe { CStr::from_ptr(sys::ncclGetErrorString(result)) };
    Err(DeviceError::Cuda(format!("{what}: {}", text.to_string_lossy())))
}
