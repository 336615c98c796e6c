//! CUDA graphs: launches that are recorded once and replayed as one.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUgraphExec, CUstreamCaptureMode};

use super::driver::expect;
use super::{Context, CudaDevice};

/// Recorded launches, with the addresses and numbers that they were recorded with.
pub struct Graph {
    context: Arc<Context>,
    executable: CUgraphExec,
}

// SAFETY: the driver's handles may be used from any thread, one at a time.
unsafe impl Send for Graph {}

impl CudaDevice {
    /// Records what `work` launches instead of running it. Nothing may be allocated or waited for in it.
    pub fn record(&self, work: impl FnOnce()) -> Graph {
        let stream = self.context().stream();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as the context.
        expect("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(stream, mode) });
        let mut recording = Recording { context: self.context(), graph: std::ptr::null_mut() };
        work();
        recording.end("cuStreamEndCapture");
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph was just recorded; it lives until `recording` is dropped.
        unsafe {
            let result = sys::cuGraphInstantiateWithFlags(&raw mut executable, recording.graph, 0);
            expect("cuGraphInstantiate", result);
            expect("cuGraphUpload", sys::cuGraphUpload(executable, stream));
        }
        Graph { context: Arc::clone(self.context()), executable }
    }
}

/// Ends the recording even where `work` panics, so that the stream can be used again.
struct Recording<'a> {
    context: &'a Context,
    graph: sys::CUgraph,
}

impl Recording<'_> {
    fn end(&mut self, what: &str) {
        let stream = self.context.stream();
        // SAFETY: a stream that is being recorded.
        expect(what, unsafe { sys::cuStreamEndCapture(stream, &raw mut self.graph) });
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        // SAFETY: the graph is this recording's alone.
        unsafe {
            if self.graph.is_null() {
                let _ = sys::cuStreamEndCapture(self.context.stream(), &raw mut self.graph);
            }
            if !self.graph.is_null() {
                let _ = sys::cuGraphDestroy(self.graph);
            }
        }
    }
}

impl Graph {
    /// Runs what was recorded, after everything launched before.
    pub fn launch(&self) {
        // SAFETY: both handles live; the memory that was recorded does too, by the promise of who recorded it: a model's
        // buffers are taken once and kept.
        expect("cuGraphLaunch", unsafe {
            sys::cuGraphLaunch(self.executable, self.context.stream())
        });
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.context.bind();
        // SAFETY: nobody else has the handle; the driver waits for launches that run.
        unsafe {
            let _ = sys::cuStreamSynchronize(self.context.stream());
            let _ = sys::cuGraphExecDestroy(self.executable);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use crate::device::Device;
    use crate::tensor::DType;

    #[test]
    fn what_is_recorded_runs_when_launched_and_may_not_allocate() {
        let _emulator = quire_sim::load();
        let device = Device::cuda(0).expect("the emulator is a GPU");
        let Device::Cuda(cuda) = &device else { unreachable!("it was opened as one") };
        let mut from = device.tensor(DType::F32, &[1.0, 2.0], 1, 2).expect("it fits");
        let to = device.tensor(DType::F32, &[0.0, 0.0], 1, 2).expect("it fits");
        let [target, source] =
            [&to, &from].map(|tensor| tensor.cuda_buffer().expect("it is on the GPU"));
        let graph = cuda.record(|| target.copy(0, source, 0, 8));
        assert_eq!(to.read_f32(), [0.0, 0.0], "it is only recorded");
        graph.launch();
        assert_eq!(to.read_f32(), [1.0, 2.0]);

        let allocates =
            || drop(cuda.record(|| drop(device.allocate(DType::F32, 1, 2).expect("no memory"))));
        let panic = catch_unwind(AssertUnwindSafe(allocates)).expect_err("it must not");
        let text = panic.downcast_ref::<String>().expect("a panic has a text");
        assert!(text.contains("CAPTURE_UNSUPPORTED"), "{text}");

        from.write_f32(&[3.0, 4.0]);
        graph.launch();
        assert_eq!(to.read_f32(), [3.0, 4.0], "the stream can be used again");
    }
}
