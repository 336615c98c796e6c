//! The two limits of a GPU, measured on it: bytes a second of a large copy, operations a second of a large product.

use std::rc::Rc;

use quire_kernels::cases::{Work, random_f32};
use quire_kernels::{DType, Device, LinearWeight, WeightFormat, WeightPolicy, gather_rows, linear};
use serde::Serialize;

use super::shapes::Shapes;
use super::timing::{Budget, time};
use super::{cuda_of, uploaded};

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Floors {
    /// Bytes read and written.
    pub copy_bytes_per_second: f64,
    /// Of BF16 products summed in float32, on random numbers, by cuBLASLt.
    pub bf16_operations_per_second: f64,
    /// A kernel without work, in a graph of many: what the smallest launch takes.
    pub launch_seconds: f64,
}

impl Floors {
    pub fn measure(device: &Rc<Device>, shapes: &Shapes, budget: Budget) -> anyhow::Result<Self> {
        let cuda = cuda_of(device);
        let copy_bytes_per_second = cuda.copy_bandwidth(shapes.copy_bytes, 5)?;
        let size = shapes.product_size;
        let bytes: Vec<u8> = random_f32(1, size.min(1024) * size)
            .iter()
            .flat_map(|&v| half::bf16::from_f32(v).to_le_bytes())
            .collect();
        let format = WeightFormat::BF16;
        let weight =
            LinearWeight::repeating(device, format, &bytes, (size, size), WeightPolicy::Packed)?;
        let x = device.tensor(DType::BF16, &random_f32(2, size * size), size, size)?;
        let mut out = device.allocate(DType::BF16, size, size)?;
        let mut product = || linear(device, out.view_mut(), x.view(), &weight, None);
        let best = |rounds: Vec<f64>| rounds.into_iter().fold(f64::INFINITY, f64::min);
        let seconds = best(time(cuda, budget, &mut product).0);
        let one = device.tensor(DType::F32, &[1.0], 1, 1)?;
        let mut to = device.allocate(DType::F32, 1, 1)?;
        let first = uploaded(device, &[&[0]])?;
        let mut smallest = || {
            gather_rows(device, to.view_mut(), one.view(), first.array(0, &[0]));
        };
        let launch_seconds = best(time(cuda, budget, &mut smallest).0);
        let operations = 2.0 * (size as f64).powi(3);
        Ok(Self {
            copy_bytes_per_second,
            bf16_operations_per_second: operations / seconds,
            launch_seconds,
        })
    }

    /// The least time of `work`, seconds, and which limit it is.
    pub fn of(&self, work: Work) -> (f64, &'static str) {
        let memory = work.bytes as f64 / self.copy_bytes_per_second;
        let arithmetic = work.operations as f64 / self.bf16_operations_per_second;
        if memory >= arithmetic { (memory, "memory") } else { (arithmetic, "arithmetic") }
    }

    pub fn page(&self) -> String {
        format!(
            "Limits measured here: a copy moves {:.2} TB/s (read and written), a BF16 product of random numbers does \
             {:.0} TFLOP/s, the smallest launch in a graph takes {:.1} µs.\n",
            self.copy_bytes_per_second / 1e12,
            self.bf16_operations_per_second / 1e12,
            1e6 * self.launch_seconds
        )
    }
}
