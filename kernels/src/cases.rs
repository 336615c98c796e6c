//! What every op's `cases.rs` returns: shapes that are checked against the reference and timed by the benches.

use crate::device::Device;
use crate::tensor::{DType, Tensor, View, ViewMut};

/// Work of one call, to be read as shares of the machine's limits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// Bytes that must be read or written at least once.
    pub bytes: u64,
    /// Floating point (or integer) operations; a multiply-add counts two.
    pub operations: u64,
}

/// Runs an op on a device, its output into the slice.
pub type RunCase = Box<dyn FnMut(&Device, &mut [f32])>;

/// One shape of one op.
pub struct Case {
    /// The op's folder name.
    pub op: &'static str,
    /// Shape and settings, as in "3x576 q8_0".
    pub name: String,
    pub work: Work,
    /// Largest |difference| to the reference, relative to max(1, |reference|); 0 demands equal bits.
    pub tolerance: f32,
    /// On CUDA: largest ‖output − reference‖ / ‖reference‖, as results of BF16 are compared; 0 demands equal bits.
    pub cuda_tolerance: f32,
    /// Elements of the output.
    pub output_len: usize,
    /// Runs the op on a device and leaves its output in a slice of `output_len` elements.
    pub run: RunCase,
    /// The same by the plain loop.
    pub reference: Box<dyn Fn() -> Vec<f32>>,
}

impl Case {
    /// Runs the case on `device` and says where it leaves the reference.
    pub fn check(&mut self, device: &Device) -> Result<(), String> {
        let mut output = vec![f32::NAN; self.output_len];
        (self.run)(device, &mut output);
        let expected = (self.reference)();
        assert_eq!(expected.len(), output.len(), "{} {}: reference length", self.op, self.name);
        if let Device::Cuda(_) = device {
            return self.check_norm(&output, &expected);
        }
        for (index, (&got, &want)) in output.iter().zip(&expected).enumerate() {
            let close = (got - want).abs() <= self.tolerance * want.abs().max(1.0);
            if !(close || got.to_bits() == want.to_bits()) {
                return Err(format!("{} {}: [{index}] is {got}, not {want}", self.op, self.name));
            }
        }
        Ok(())
    }

    /// The whole by its norm, and each element by what rounding can make of the typical one.
    fn check_norm(&self, output: &[f32], expected: &[f32]) -> Result<(), String> {
        let squares = |values: &mut dyn Iterator<Item = f32>| {
            values.map(|x| f64::from(x) * f64::from(x)).sum::<f64>()
        };
        let norm = squares(&mut expected.iter().copied());
        let error = squares(&mut output.iter().zip(expected).map(|(got, want)| got - want));
        let (typical, tolerance) =
            ((norm / expected.len().max(1) as f64).sqrt() as f32, self.cuda_tolerance);
        // Written so that NaN is an error.
        let is_close = error.sqrt() <= f64::from(tolerance) * norm.sqrt();
        for (index, (&got, &want)) in output.iter().zip(expected).enumerate() {
            let largest = 8.0 * tolerance * want.abs().max(typical);
            let is_near = (got - want).abs() <= largest || got.to_bits() == want.to_bits();
            if !is_near {
                return Err(format!("{} {}: [{index}] is {got}, not {want}", self.op, self.name));
            }
        }
        if is_close || output.is_empty() {
            return Ok(());
        }
        let relative = (error / norm).sqrt();
        Err(format!("{} {}: error {relative:e} is above {tolerance:e}", self.op, self.name))
    }
}

/// `cuda_tolerance` of a shape that CUDA has no kernel for: it is not run there.
pub const NO_CUDA_KERNEL: f32 = f32::NAN;

/// What BF16 results are held to.
pub const BF16_TOLERANCE: f32 = 4e-3;

/// What F32 results of BF16 inputs are held to: those are exact, and only sums differ.
pub const F32_TOLERANCE: f32 = 1e-5;

/// The type of a matrix on the device that a case runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What passes from op to op: `Device::activation_dtype`.
    Activations,
    /// F32 everywhere: weights of norms, the residual stream, logits.
    Numbers,
}

impl Kind {
    fn dtype(self, device: &Device) -> DType {
        match self {
            Self::Activations => device.activation_dtype(),
            Self::Numbers => DType::F32,
        }
    }
}

/// A matrix that a case reads: taken to the device when it is first asked for, and left there.
pub struct Input {
    values: Vec<f32>,
    rows: usize,
    cols: usize,
    kind: Kind,
    placed: Option<Tensor>,
}

impl Input {
    /// `values` as `[rows, cols]`; activations should be of `random_activations`, which BF16 holds exactly.
    pub fn new(kind: Kind, values: Vec<f32>, rows: usize, cols: usize) -> Self {
        Self { values, rows, cols, kind, placed: None }
    }

    /// The matrix in the memory of `device`.
    pub fn on(&mut self, device: &Device) -> &Tensor {
        let is_cuda = matches!(device, Device::Cuda(_));
        if self.placed.as_ref().is_none_or(|tensor| tensor.is_on_cuda() != is_cuda) {
            let dtype = self.kind.dtype(device);
            let tensor = device.tensor(dtype, &self.values, self.rows, self.cols);
            self.placed = Some(tensor.expect("a case fits the device"));
        }
        self.placed.as_ref().expect("placed above")
    }

    /// As `on`, the whole of it.
    pub fn view(&mut self, device: &Device) -> View<'_> {
        self.on(device).view()
    }
}

/// Runs `op` on a matrix `[rows, cols]` of the device that begins with what `values` hold and ends in them.
pub fn in_place(
    device: &Device,
    kind: Kind,
    values: &mut [f32],
    (rows, cols): (usize, usize),
    op: impl FnOnce(ViewMut),
) {
    if let Device::Cpu(_) = device {
        return op(ViewMut::from_f32(values, rows, cols));
    }
    let tensor = device.tensor(kind.dtype(device), values, rows, cols);
    let mut tensor = tensor.expect("a case fits the device");
    op(tensor.view_mut());
    values.copy_from_slice(&tensor.read_f32());
}

/// Every case of every op.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(crate::activate::cases::cases());
    cases.extend(crate::add_rows::cases::cases());
    cases.extend(crate::all_reduce::cases::cases());
    cases.extend(crate::attention::cases::cases());
    cases.extend(crate::attention::chosen_cases::cases());
    cases.extend(crate::attention::branches_cases::cases());
    cases.extend(crate::causal_conv::cases::cases());
    cases.extend(crate::choose_positions::cases::cases());
    cases.extend(crate::combine_experts::cases::cases());
    cases.extend(crate::copy_blocks::cases::cases());
    cases.extend(crate::copy_slots::cases::cases());
    cases.extend(crate::copy_heads::cases::cases());
    cases.extend(crate::embedding::cases::cases());
    cases.extend(crate::gated_mul::cases::cases());
    cases.extend(crate::gated_delta::cases::cases());
    cases.extend(crate::gather_rows::cases::cases());
    cases.extend(crate::index_keys::cases::cases());
    cases.extend(crate::layer_norm::cases::cases());
    cases.extend(crate::linear::cases::cases());
    cases.extend(crate::linear::cases::expert_cases());
    cases.extend(crate::linear::cases::head_cases());
    cases.extend(crate::mean_rows::cases::cases());
    cases.extend(crate::rms_norm::cases::cases());
    cases.extend(crate::rope_write_kv::cases::cases());
    cases.extend(crate::route_experts::cases::cases());
    cases.extend(crate::sample::cases::cases());
    cases.extend(crate::sandwich_norm::cases::cases());
    cases.extend(crate::scale_by_position::cases::cases());
    cases.extend(crate::sigmoid_gate::cases::cases());
    cases.extend(crate::softcap::cases::cases());
    cases.extend(crate::verify_drafts::cases::cases());
    cases.extend(crate::weigh_experts::cases::cases());
    cases
}

/// Repeatable numbers in [-1, 1), for inputs of cases (xorshift64*).
pub fn random_f32(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    };
    (0..len).map(|_| (next() >> 40) as f32 / (1_u32 << 23) as f32 - 1.0).collect()
}

/// As `random_f32`, of numbers that BF16 holds exactly: the same input on every device.
pub fn random_activations(seed: u64, len: usize) -> Vec<f32> {
    rounded_to_bf16(random_f32(seed, len))
}

/// The nearest numbers that BF16 holds.
pub fn rounded_to_bf16(values: Vec<f32>) -> Vec<f32> {
    values.into_iter().map(|x| half::bf16::from_f32(x).to_f32()).collect()
}
