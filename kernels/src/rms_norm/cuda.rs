//! `rms_norm` on a GPU: a block a row.

use crate::cuda::{CudaDevice, Grid};
use crate::tensor::{DType, Tensor, View, ViewMut};

/// Pieces that a thread holds in `rms_norm.cu`, of 1 number and of 8.
const PIECES: [usize; 2] = [8, 2];

pub(super) fn rms_norm(cuda: &CudaDevice, out: &ViewMut, x: &View, weight: &Tensor, eps: f32) {
    let rows = Rows::new(x.rows(), x.cols(), out.is_aligned_to(16) && x.is_aligned_to(16));
    let kernel = match x.dtype() {
        DType::F32 => rows.kernel("rms_norm_1", "rms_norm_8"),
        _ => rows.kernel("rms_norm_bf16_1", "rms_norm_bf16_8"),
    };
    cuda.launch(
        kernel,
        rows.grid(),
        &[
            out.pointer().into(),
            x.pointer().into(),
            weight.view().pointer().into(),
            x.cols().into(),
            out.row_stride().into(),
            x.row_stride().into(),
            eps.into(),
        ],
    );
}

pub(super) fn add_rms_norm(
    cuda: &CudaDevice,
    out: &ViewMut,
    residual: &ViewMut,
    x: &View,
    weight: &Tensor,
    eps: f32,
) {
    let is_aligned = out.is_aligned_to(16) && residual.is_aligned_to(16) && x.is_aligned_to(16);
    let rows = Rows::new(x.rows(), x.cols(), is_aligned);
    cuda.launch(
        rows.kernel("add_rms_norm_1", "add_rms_norm_8"),
        rows.grid(),
        &[
            out.pointer().into(),
            residual.pointer().into(),
            x.pointer().into(),
            weight.view().pointer().into(),
            x.cols().into(),
            out.row_stride().into(),
            residual.row_stride().into(),
            x.row_stride().into(),
            eps.into(),
        ],
    );
}

/// Rows that are normalised by a block each, some numbers at a time.
pub(crate) struct Rows {
    count: usize,
    threads: usize,
    at_once: usize,
}

impl Rows {
    /// Panics when a block cannot hold a row.
    pub(crate) fn new(count: usize, cols: usize, is_aligned: bool) -> Self {
        let at_once = if is_aligned && cols.is_multiple_of(8) { 8 } else { 1 };
        let threads = cols.div_ceil(at_once).next_multiple_of(32).min(1024);
        let pieces = PIECES[usize::from(at_once == 8)];
        assert!(cols <= pieces * threads * at_once, "a norm over {cols} numbers");
        Self { count, threads, at_once }
    }

    /// Which of the two kernels.
    pub(crate) fn kernel<'a>(&self, one: &'a str, eight: &'a str) -> &'a str {
        if self.at_once == 8 { eight } else { one }
    }

    pub(crate) fn grid(&self) -> Grid {
        Grid::new(self.count, self.threads)
    }
}
