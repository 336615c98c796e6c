//! What a GPU does with this build: parity of all kernels, single instructions, times beside their floors, whole steps.
//! The program `gpu` runs the parts; every part leaves a page and the same as JSON.

pub mod floors;
pub mod kernels;
pub mod parity;
pub mod probes;
pub mod served;
pub mod shapes;
pub mod steps;
pub mod timing;

use std::path::PathBuf;

use anyhow::Context;
use quire_kernels::device::CudaDevice;
use quire_kernels::{Device, StepArrays, StepUpload};
use serde::Serialize;

use crate::report::{Run, print, write_json};

/// Where pages go, and what they begin with.
pub struct Output {
    folder: PathBuf,
    gpu: String,
}

impl Output {
    pub fn new(folder: PathBuf, gpu: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(Self { folder, gpu: gpu.to_owned() })
    }

    /// Writes `NAME.md` and `NAME.json`, and prints the page. Called again, it writes them anew: what is there at any time
    /// is what was measured so far.
    pub fn write(&self, name: &str, page: &str, data: &impl Serialize) -> anyhow::Result<()> {
        let run = Run::here();
        let note = match is_emulated(&self.gpu) {
            true => "\n\nThis is the emulator: its times say nothing about a GPU.",
            false => "",
        };
        let text = format!("# {name}\n\n{}{}{note}\n\n{page}", run.header(), self.gpu);
        let path = self.folder.join(format!("{name}.md"));
        std::fs::write(&path, &text).with_context(|| path.display().to_string())?;
        print(&format!("{text}\n"));
        let path = self.folder.join(format!("{name}.json"));
        write_json(Some(&path), &Written { run: &run, gpu: &self.gpu, data })
    }
}

#[derive(Serialize)]
struct Written<'a, T> {
    run: &'a Run,
    gpu: &'a str,
    data: &'a T,
}

/// Whether the GPU of that name is the one of the tests.
pub fn is_emulated(gpu: &str) -> bool {
    gpu.contains("emulator")
}

/// The GPU behind a device.
pub fn cuda_of(device: &Device) -> &CudaDevice {
    match device {
        Device::Cuda(cuda) => cuda,
        Device::Cpu(_) | Device::Trace(_) => panic!("these measurements are of GPUs"),
    }
}

/// Whole numbers in the memory of the GPU.
fn uploaded(device: &Device, arrays: &[&[u32]]) -> anyhow::Result<StepArrays> {
    let capacity = arrays.iter().map(|array| array.len()).sum();
    let mut step = StepArrays::new(device, capacity, 0, 0)?;
    step.upload(device, &StepUpload { arrays, changes: &[], taken: &[], sampled: None });
    Ok(step)
}
