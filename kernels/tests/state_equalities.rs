//! A sequence with a recurrent state has the same bits in one piece and in many, alone and among others, at any level.

use quire_kernels::cpu::SimdLevel;
use quire_kernels::{
    DType, Device, GatedDelta, GatedDeltaSpec, NO_STATE, RecurrentLayer, StateBatch, StateSegment,
    StateShape, Tensor, causal_conv, gated_delta,
};
use quire_sim::SCHEDULES;

const SPEC: GatedDeltaSpec = GatedDeltaSpec {
    num_key_heads: 2,
    num_value_heads: 4,
    key_dim: 24,
    value_dim: 83,
    is_tiled: false,
};
const TAPS: usize = 4;
const NUM_ROWS: usize = 41;

struct Model {
    device: Device,
    states: RecurrentLayer,
    /// Taps, rates, dt_bias, norm.
    weights: [Tensor; 4],
}

impl Model {
    fn new(device: Device) -> Self {
        let shape = StateShape {
            taps: TAPS,
            channels: SPEC.qkv_size(),
            num_value_heads: SPEC.num_value_heads,
            key_dim: SPEC.key_dim,
            value_dim: SPEC.value_dim,
        };
        let states = RecurrentLayer::new(&device, 6, &shape).expect("a small memory");
        let (heads, channels) = (SPEC.num_value_heads, SPEC.qkv_size());
        let tensor = |values: &[f32], rows: usize| {
            let cols = values.len() / rows;
            device.tensor(DType::F32, values, rows, cols).expect("a small tensor")
        };
        let weights = [
            tensor(&numbers(1, TAPS * channels), TAPS),
            tensor(&vec![-0.7; heads], 1),
            tensor(&numbers(2, heads), 1),
            tensor(&numbers(3, SPEC.value_dim), 1),
        ];
        Self { device, states, weights }
    }

    /// One step over `x` (`[rows, qkv | z | ba]`).
    fn step(&mut self, x: &[f32], batch: &StateBatch) -> Vec<f32> {
        let [taps, rates, dt_bias, norm] = &self.weights;
        let (channels, values) = (SPEC.qkv_size(), SPEC.value_size());
        let cols = channels + values + 2 * SPEC.num_value_heads;
        let (rows, dtype) = (x.len() / cols, self.device.activation_dtype());
        let x = self.device.tensor(dtype, x, rows, cols).expect("a small tensor");
        let empty = |cols| self.device.allocate(dtype, rows, cols).expect("a small tensor");
        let (mut convolved, mut out, x) = (empty(channels), empty(values), x.view());
        let input = x.columns(0..channels);
        causal_conv(&self.device, convolved.view_mut(), input, taps, &mut self.states, batch);
        let gates = (x.columns(channels..channels + values), x.columns(channels + values..cols));
        let args = GatedDelta { spec: SPEC, rates, dt_bias, norm, eps: 1e-6 };
        let (view, qkv) = (out.view_mut(), convolved.view_mut());
        gated_delta(&self.device, view, qkv, gates, &args, &mut self.states, batch);
        out.read_f32()
    }
}

fn numbers(seed: u32, len: usize) -> Vec<f32> {
    (0..len as u32).map(|i| ((i * 2_654_435 + seed * 977) % 2001) as f32 / 1000.0 - 1.0).collect()
}

fn segment(first_row: usize, num_rows: usize, from: u32, to: u32) -> StateSegment {
    StateSegment { first_row: first_row as u32, num_rows: num_rows as u32, from, to }
}

#[test]
fn pieces_neighbours_and_threads_change_no_bit() {
    for simd in SimdLevel::available() {
        let device = |threads| Device::cpu_with(threads, simd);
        pieces_and_neighbours(device(1), || device(3), &format!("{simd:?}"));
    }
}

#[test]
fn pieces_and_neighbours_change_no_bit_on_cuda() {
    let emulator = quire_sim::load();
    for schedule in [SCHEDULES[0], SCHEDULES[5]] {
        emulator.run_as(schedule);
        let device = || Device::cuda(0).expect("the emulator is a GPU");
        pieces_and_neighbours(device(), device, &format!("{schedule:?}"));
    }
}

/// The whole on `one`; pieces of it, with a neighbour that computes the same, on devices that `other` makes.
fn pieces_and_neighbours(one: Device, other: impl Fn() -> Device, name: &str) {
    let cols = SPEC.qkv_size() + SPEC.value_size() + 2 * SPEC.num_value_heads;
    let x = numbers(4, NUM_ROWS * cols);
    let whole = [segment(0, NUM_ROWS, NO_STATE, 0)];
    let expected = Model::new(one).step(&x, &StateBatch::new(&whole, &[0, 1]));
    assert!(expected.iter().all(|x| x.is_finite()));
    // Each piece in two segments where it can be.
    for piece in [1, 2, 5, 16] {
        let mut model = Model::new(other());
        let (mut out, mut neighbour) = (Vec::new(), Vec::new());
        let mut slot = [NO_STATE, NO_STATE];
        for rows in x.chunks(piece * cols) {
            let n = rows.len() / cols;
            let mut segments = Vec::new();
            let mut start_loc = vec![0];
            for (sequence, slot) in slot.iter_mut().enumerate() {
                let (first, base) = (sequence * n, 3 * sequence as u32);
                if n > 1 {
                    segments.push(segment(first, n / 2, *slot, base + 2));
                    *slot = base + 2;
                }
                let to = if *slot == base { base + 1 } else { base };
                let done = if n > 1 { n / 2 } else { 0 };
                segments.push(segment(first + done, n - done, *slot, to));
                *slot = to;
                start_loc.push(segments.len() as u32);
            }
            let both = [rows, rows].concat();
            let result = model.step(&both, &StateBatch::new(&segments, &start_loc));
            let (a, b) = result.split_at(result.len() / 2);
            out.extend_from_slice(a);
            neighbour.extend_from_slice(b);
        }
        assert_eq!(out, expected, "{name}, pieces of {piece}");
        assert_eq!(neighbour, expected, "{name}, the neighbour");
    }
}
