//! Time on the GPU between two events, and how fast it copies.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUevent};

use super::driver::expect;
use super::{Context, CudaDevice, DeviceBuffer};
use crate::device::DeviceError;

struct Event {
    context: Arc<Context>,
    raw: CUevent,
}

impl Event {
    fn new(context: &Arc<Context>) -> Self {
        context.bind();
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is current; the event is given back in `drop`.
        expect("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut raw, 0) });
        Self { context: Arc::clone(context), raw }
    }

    fn record(&self) {
        // SAFETY: event and stream belong to the context, which lives.
        expect("cuEventRecord", unsafe { sys::cuEventRecord(self.raw, self.context.stream()) });
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.context.bind();
        // SAFETY: nobody else has the event.
        unsafe {
            let _ = sys::cuEventDestroy_v2(self.raw);
        }
    }
}

impl CudaDevice {
    /// Seconds that the GPU takes for what `work` launches; waits for it.
    pub fn time(&self, work: impl FnOnce()) -> f64 {
        let (start, end) = (Event::new(self.context()), Event::new(self.context()));
        start.record();
        work();
        end.record();
        self.synchronize();
        let mut milliseconds = 0.0;
        // SAFETY: both events have happened.
        expect("cuEventElapsedTime", unsafe {
            sys::cuEventElapsedTime_v2(&raw mut milliseconds, start.raw, end.raw)
        });
        f64::from(milliseconds) / 1e3
    }

    /// Bytes a second of a copy of `bytes` within the GPU's memory, read and written ones, the best of `rounds`.
    pub fn copy_bandwidth(&self, bytes: usize, rounds: usize) -> Result<f64, DeviceError> {
        let from = DeviceBuffer::zeroed(self.context(), bytes)?;
        let to = DeviceBuffer::zeroed(self.context(), bytes)?;
        to.copy(0, &from, 0, bytes);
        let seconds = (0..rounds).map(|_| self.time(|| to.copy(0, &from, 0, bytes)));
        Ok(2.0 * bytes as f64 / seconds.fold(f64::INFINITY, f64::min))
    }
}
