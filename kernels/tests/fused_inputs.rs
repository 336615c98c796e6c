//! Rows that `linear` makes on its way (a norm's, a gate's) have the bits of the op alone, and so have the products.

use quire_kernels::cases::random_f32;
use quire_kernels::cpu::SimdLevel;
use quire_kernels::linear::cases::random_weight_bytes;
use quire_kernels::{
    Activation, ActivationPrecision, AddNorm, Device, Gated, Input, LinearWeight, Tensor, ViewMut,
    WeightFormat, WeightPolicy, linear,
};

const ROWS: [usize; 6] = [1, 2, 5, 8, 33, 200];
const K: usize = 96;

/// All parts packed, in one precision or two; none packed; both kinds.
fn weights(device: &Device) -> Vec<LinearWeight> {
    let load = |format, features| {
        let bytes = random_weight_bytes(format, features, K, 1);
        LinearWeight::from_gguf(device, format, &bytes, features, K, WeightPolicy::Packed)
            .expect("whole rows")
    };
    let q4 = || load(WeightFormat::Q4_1, 45);
    let q8 = || load(WeightFormat::Q8_0, 7).with_activations(ActivationPrecision::Int16);
    let (f16, f32) = (load(WeightFormat::F16, 45), load(WeightFormat::F32, 3));
    let stacks = [vec![q4()], vec![q4(), q8()], vec![f16], vec![q4(), f32]];
    stacks.into_iter().map(LinearWeight::stack).collect()
}

fn random(seed: u64, rows: usize, cols: usize) -> Tensor {
    Tensor::from_f32(&random_f32(seed, rows * cols), rows, cols)
}

/// `run(device, weight, n, is_fused)` gives the same bits either way.
fn check(run: impl Fn(&Device, &LinearWeight, usize, bool) -> Vec<f32>) {
    for simd in SimdLevel::available() {
        for device in [1, 3].map(|num_threads| Device::cpu_with(num_threads, simd)) {
            for (index, weight) in weights(&device).iter().enumerate() {
                for n in ROWS {
                    let results = [true, false].map(|fused| run(&device, weight, n, fused));
                    assert!(results[0].iter().all(|v| v.is_finite()));
                    assert!(results[0] == results[1], "{simd:?}, weight {index}, {n} rows");
                }
            }
        }
    }
}

/// The product, with its rows made inside of it or before.
fn product(device: &Device, weight: &LinearWeight, mut input: Input, is_fused: bool) -> Vec<f32> {
    let input = if is_fused { input } else { Input::Rows(input.make(device)) };
    let n = match &input {
        Input::Rows(rows) => rows.rows(),
        Input::Normed(norm) => norm.x.rows(),
        Input::Gated(gated) => gated.gate_up.rows(),
    };
    let mut out = vec![f32::NAN; n * weight.out_features()];
    linear(device, ViewMut::from_f32(&mut out, n, weight.out_features()), input, weight, None);
    out
}

#[test]
fn a_norm_inside_has_the_bits_of_a_norm_before() {
    let eps = 1e-5;
    check(|device, weight, n, is_fused| {
        let (x, norm) = (random(1, n, K), random(2, 1, K));
        let (mut residual, mut out) = (random(3, n, K), random(4, n, K));
        let (out_rows, residual_rows) = (out.view_mut(), residual.view_mut());
        let (x, weight_of_norm) = (x.view(), &norm);
        let norm =
            AddNorm { out: out_rows, residual: residual_rows, x, weight: weight_of_norm, eps };
        let product = product(device, weight, Input::Normed(norm), is_fused);
        [&product, residual.f32(), out.f32()].concat()
    });
}

#[test]
fn a_gate_inside_has_the_bits_of_a_gate_before() {
    for activation in [Activation::Silu, Activation::GeluTanh] {
        check(|device, weight, n, is_fused| {
            let (gate_up, mut out) = (random(5, n, 2 * K), random(6, n, K));
            let gated = Gated { out: out.view_mut(), gate_up: gate_up.view(), activation };
            let product = product(device, weight, Input::Gated(gated), is_fused);
            [&product, out.f32()].concat()
        });
    }
}
