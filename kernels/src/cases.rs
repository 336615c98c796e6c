//! What every op's `cases.rs` returns: shapes that are checked against the reference and timed by the benches.

use crate::device::Device;

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
        for (index, (&got, &want)) in output.iter().zip(&expected).enumerate() {
            let close = (got - want).abs() <= self.tolerance * want.abs().max(1.0);
            if !(close || got.to_bits() == want.to_bits()) {
                return Err(format!("{} {}: [{index}] is {got}, not {want}", self.op, self.name));
            }
        }
        Ok(())
    }
}

/// Every case of every op.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(crate::attention::cases::cases());
    cases.extend(crate::combine_experts::cases::cases());
    cases.extend(crate::copy_blocks::cases::cases());
    cases.extend(crate::embedding::cases::cases());
    cases.extend(crate::gated_mul::cases::cases());
    cases.extend(crate::gather_rows::cases::cases());
    cases.extend(crate::linear::cases::cases());
    cases.extend(crate::linear::cases::expert_cases());
    cases.extend(crate::rms_norm::cases::cases());
    cases.extend(crate::rope_write_kv::cases::cases());
    cases.extend(crate::route_experts::cases::cases());
    cases.extend(crate::sample::cases::cases());
    cases.extend(crate::sandwich_norm::cases::cases());
    cases.extend(crate::scale_by_position::cases::cases());
    cases.extend(crate::softcap::cases::cases());
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
