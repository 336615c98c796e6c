//! Probes: what single instructions of a GPU do, beside what the manual says they do.
//!
//! Kernels are tested on an emulator whose `ldmatrix`, `mma.sync`, `cp.async`, mbarrier, TMA and `wgmma` were written from
//! the PTX manual. These small kernels hold both to references written from the manual once more: the emulator in every
//! test run, silicon in `make gpu`. Inputs are whole numbers where they can be, so that every order of additions is exact.
//!
//! Source: NVIDIA, "Parallel Thread Execution ISA", chapters on matrix and asynchronous copy instructions.

mod hopper;
mod instructions;

use crate::cuda::{Argument, CudaDevice, DeviceBuffer, Grid};

/// One instruction, or a few that belong together.
#[derive(Clone, Copy)]
pub struct Probe {
    pub name: &'static str,
    kernel: &'static str,
    run: fn(&CudaDevice) -> Vec<Finding>,
}

/// What came out of a kernel, and what had to.
pub struct Finding {
    /// Which part of the probe.
    pub what: String,
    got: Vec<u32>,
    expected: Vec<u32>,
    /// Of float32 numbers: the largest difference that the manual allows. `None`: bits must be equal.
    tolerance: Option<f32>,
}

/// All of them; those of Hopper's own instructions need such a GPU.
pub const PROBES: &[Probe] = &[
    Probe { name: "ldmatrix", kernel: "probe_ldmatrix", run: instructions::ldmatrix },
    Probe { name: "mma.sync", kernel: "probe_mma", run: instructions::mma },
    Probe { name: "cp.async", kernel: "probe_cp_async", run: instructions::cp_async },
    Probe { name: "conversions", kernel: "probe_numbers", run: instructions::conversions },
    Probe { name: "ex2", kernel: "probe_ex2", run: instructions::ex2 },
    Probe { name: "mbarrier", kernel: "probe_mbarrier", run: hopper::mbarrier },
    Probe { name: "TMA", kernel: "probe_tma", run: hopper::tma },
    Probe { name: "wgmma", kernel: "probe_wgmma", run: hopper::wgmma },
];

impl Probe {
    /// Whether this GPU has the instructions.
    pub fn runs_on(&self, cuda: &CudaDevice) -> bool {
        cuda.has_kernel(self.kernel)
    }

    pub fn run(&self, cuda: &CudaDevice) -> Vec<Finding> {
        (self.run)(cuda)
    }
}

impl Finding {
    /// The first difference, in words.
    pub fn difference(&self) -> Option<String> {
        if self.got.len() != self.expected.len() {
            return Some(format!("{} numbers, not {}", self.got.len(), self.expected.len()));
        }
        let differs = |(&got, &expected): (&u32, &u32)| match self.tolerance {
            None => got != expected,
            Some(tolerance) => {
                let (got, expected) = (f32::from_bits(got), f32::from_bits(expected));
                let is_near = (got - expected).abs() <= tolerance * expected.abs().max(1.0);
                !(is_near || got.is_nan() && expected.is_nan() || got == expected)
            }
        };
        let index = self.got.iter().zip(&self.expected).position(differs)?;
        let (got, expected) = (self.got[index], self.expected[index]);
        Some(match self.tolerance {
            None => format!("[{index}] is {got:#010x}, not {expected:#010x}"),
            Some(_) => {
                format!("[{index}] is {}, not {}", f32::from_bits(got), f32::from_bits(expected))
            }
        })
    }

    /// Of float32 numbers, the largest difference relative to max(1, |expected|).
    pub fn largest_error(&self) -> Option<f32> {
        self.tolerance?;
        let errors = self.got.iter().zip(&self.expected).map(|(&got, &expected)| {
            let (got, expected) = (f32::from_bits(got), f32::from_bits(expected));
            (got - expected).abs() / expected.abs().max(1.0)
        });
        Some(errors.filter(|error| error.is_finite()).fold(0.0, f32::max))
    }

    fn bits(what: impl Into<String>, got: Vec<u32>, expected: Vec<u32>) -> Self {
        Self { what: what.into(), got, expected, tolerance: None }
    }

    fn floats(what: impl Into<String>, got: Vec<u32>, expected: &[f32], tolerance: f32) -> Self {
        let expected = expected.iter().map(|value| value.to_bits()).collect();
        Self { what: what.into(), got, expected, tolerance: Some(tolerance) }
    }
}

/// Runs a kernel whose first argument is where its `len` words go; they are no numbers before.
fn launch(
    cuda: &CudaDevice,
    name: &str,
    (blocks, threads, shared_bytes): (usize, usize, usize),
    len: usize,
    arguments: &[Argument],
) -> Vec<u32> {
    let out = filled(cuda, &vec![u32::MAX; len]);
    let grid = Grid { shared_bytes, ..Grid::new(blocks, threads) };
    let mut all = vec![Argument::from(out.pointer())];
    all.extend_from_slice(arguments);
    cuda.launch(name, grid, &all);
    let mut bytes = vec![0; 4 * len];
    out.read(0, &mut bytes);
    bytes.as_chunks().0.iter().map(|&word| u32::from_le_bytes(word)).collect()
}

/// Words in the memory of the GPU.
fn filled(cuda: &CudaDevice, words: &[u32]) -> DeviceBuffer {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let buffer = DeviceBuffer::zeroed(cuda.context(), bytes.len());
    let buffer = buffer.expect("some kilobytes are free");
    buffer.write(0, &bytes);
    buffer
}

/// Pairs of 16-bit elements as words, the first in the lower half.
fn pairs(elements: &[u16]) -> Vec<u32> {
    let pair = |two: &[u16; 2]| u32::from(two[0]) | u32::from(two[1]) << 16;
    elements.as_chunks().0.iter().map(pair).collect()
}

/// BF16 of a whole number that it holds exactly.
fn bf16(value: i32) -> u16 {
    half::bf16::from_f32(value as f32).to_bits()
}

/// Small whole numbers without a pattern, from -3 to 3.
fn small(index: usize) -> i32 {
    (index.wrapping_mul(2_654_435_761) >> 7) as i32 % 7 - 3
}
