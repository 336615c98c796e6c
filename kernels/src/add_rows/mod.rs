//! `x[r] += table[rows[r]]`: learned positions and kinds of tokens on top of an embedding (Devlin et al. 2018).
#![allow(clippy::needless_pass_by_value, reason = "an op takes the view that it writes")]

pub mod cases;
mod cpu;
mod cuda;
pub mod reference;

use crate::device::Device;
use crate::indices::Indices;
use crate::tensor::{DType, Tensor, ViewMut};

/// `x`: `[n, cols]` F32; `table`: `[any, cols]` F32. `rows`: n entries below `table.rows()`; none: row 0 for all.
pub fn add_rows(device: &Device, x: ViewMut, table: &Tensor, rows: Option<Indices>) {
    assert_eq!(x.cols(), table.cols(), "table");
    assert!(x.dtype() == DType::F32 && table.dtype() == DType::F32 && table.rows() > 0);
    if let Some(rows) = rows {
        assert_eq!(rows.len(), x.rows(), "rows");
        assert!(rows.iter().all(|&row| (row as usize) < table.rows()), "a row beyond the table");
    }
    match device {
        Device::Cpu(cpu) => cpu::add_rows(cpu, &x, table.view(), rows.map(|rows| rows.host())),
        Device::Cuda(cuda) => cuda::add_rows(cuda, &x, &table.view(), rows),
        Device::Trace(log) => {
            let of = if rows.is_some() { table.rows() } else { 1 };
            log.push(format!("add_rows {}x{} of {of}", x.rows(), x.cols()));
        }
    }
}
