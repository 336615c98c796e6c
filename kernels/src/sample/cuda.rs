//! `sample` with logits on a GPU: they are taken to the host and sampled there, as on the CPU.

use super::{SampleRow, Sampled, cpu};
use crate::cuda::CudaDevice;
use crate::tensor::{View, ViewMut};

pub(super) fn sample(cuda: &CudaDevice, out: &mut [Sampled], logits: &ViewMut, rows: &[SampleRow]) {
    let mut on_host = cuda.read_rows(&logits.as_view());
    let on_host = ViewMut::from_f32(&mut on_host, logits.rows(), logits.cols());
    cpu::sample(cuda.host(), out, &on_host, rows);
}

pub(super) fn logprobs(
    cuda: &CudaDevice,
    out: &mut [Sampled],
    logits: &View,
    targets: &[u32],
    num_top: &[u32],
) {
    let on_host = cuda.read_rows(logits);
    let on_host = View::from_f32(&on_host, logits.rows(), logits.cols());
    cpu::logprobs(cuda.host(), out, on_host, targets, num_top);
}
