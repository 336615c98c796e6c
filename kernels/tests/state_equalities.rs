//! A sequence with a recurrent state has the same bits in one piece and in many, alone and among others, at any level.

use quire_kernels::cpu::SimdLevel;
use quire_kernels::{
    Device, GatedDelta, GatedDeltaSpec, NO_STATE, RecurrentLayer, StateBatch, StateSegment,
    StateShape, Tensor, View, ViewMut, causal_conv, gated_delta,
};

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
    fn new(threads: usize, simd: SimdLevel) -> Self {
        let shape = StateShape {
            taps: TAPS,
            channels: SPEC.qkv_size(),
            num_value_heads: SPEC.num_value_heads,
            key_dim: SPEC.key_dim,
            value_dim: SPEC.value_dim,
        };
        let device = Device::cpu_with(threads, simd);
        let states = RecurrentLayer::new(&device, 6, &shape).expect("a small memory");
        let (heads, channels) = (SPEC.num_value_heads, SPEC.qkv_size());
        let weights = [
            Tensor::from_f32(&numbers(1, TAPS * channels), TAPS, channels),
            Tensor::from_f32(&vec![-0.7; heads], 1, heads),
            Tensor::from_f32(&numbers(2, heads), 1, heads),
            Tensor::from_f32(&numbers(3, SPEC.value_dim), 1, SPEC.value_dim),
        ];
        Self { device, states, weights }
    }

    /// One step over `x` (`[rows, qkv | z | ba]`).
    fn step(&mut self, x: &[f32], batch: &StateBatch) -> Vec<f32> {
        let [taps, rates, dt_bias, norm] = &self.weights;
        let (channels, values) = (SPEC.qkv_size(), SPEC.value_size());
        let cols = channels + values + 2 * SPEC.num_value_heads;
        let rows = x.len() / cols;
        let x = View::from_f32(x, rows, cols);
        let mut convolved = vec![0.0; rows * channels];
        let out = ViewMut::from_f32(&mut convolved, rows, channels);
        causal_conv(&self.device, out, x.columns(0..channels), taps, &mut self.states, batch);
        let mut out = vec![0.0; rows * values];
        let gates = (x.columns(channels..channels + values), x.columns(channels + values..cols));
        let args = GatedDelta { spec: SPEC, rates, dt_bias, norm, eps: 1e-6 };
        let qkv = ViewMut::from_f32(&mut convolved, rows, channels);
        let view = ViewMut::from_f32(&mut out, rows, values);
        gated_delta(&self.device, view, qkv, gates, &args, &mut self.states, batch);
        out
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
    let cols = SPEC.qkv_size() + SPEC.value_size() + 2 * SPEC.num_value_heads;
    let x = numbers(4, NUM_ROWS * cols);
    for simd in SimdLevel::available() {
        let whole = [segment(0, NUM_ROWS, NO_STATE, 0)];
        let expected =
            Model::new(1, simd).step(&x, &StateBatch { segments: &whole, start_loc: &[0, 1] });
        // In pieces, each in two segments where it can, with a neighbour that computes the same.
        for piece in [1, 2, 5, 16] {
            let mut model = Model::new(3, simd);
            let (mut out, mut other) = (Vec::new(), Vec::new());
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
                let batch = StateBatch { segments: &segments, start_loc: &start_loc };
                let result = model.step(&both, &batch);
                let (a, b) = result.split_at(result.len() / 2);
                out.extend_from_slice(a);
                other.extend_from_slice(b);
            }
            assert!(out.iter().all(|x| x.is_finite()));
            assert_eq!(out, expected, "{simd:?}, pieces of {piece}");
            assert_eq!(other, expected, "{simd:?}, the neighbour");
        }
    }
}
