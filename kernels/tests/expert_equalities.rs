//! `expert_linear`: each place has the bits that `linear` with its expert alone gives its row, in every batch, with every
//! number of threads.

use std::ops::Range;

use quire_kernels::cases::{random_activations, random_f32};
use quire_kernels::cpu::SimdLevel;
use quire_kernels::linear::cases::random_weight_bytes;
use quire_kernels::{
    Activation, ActivationPrecision, DType, Device, ExpertInput, ExpertRouting, ExpertWeights,
    Gated, HeadStrides, HeadWeights, LinearWeight, RouteExperts, RouterScores, RouterSpec, Tensor,
    View, ViewMut, WeightFormat, WeightPolicy, expert_linear, gated_mul, head_linear, linear,
    route_experts,
};

const NUM_EXPERTS: usize = 7;
const NUM_CHOSEN: usize = 3;
const FEATURES: usize = 77;
const K: usize = 256;

fn expert(device: &Device, format: WeightFormat, seed: usize) -> LinearWeight {
    let bytes = random_weight_bytes(format, FEATURES, K, seed as u64);
    LinearWeight::from_gguf(device, format, &bytes, FEATURES, K, WeightPolicy::Packed)
        .expect("whole rows")
        .with_activations([ActivationPrecision::Int8, ActivationPrecision::Int16][seed % 2])
}

fn routing(device: &Device, logits: &[f32]) -> ExpertRouting {
    routing_of(device, View::from_f32(logits, logits.len() / NUM_EXPERTS, NUM_EXPERTS))
}

fn routing_of(device: &Device, logits: View) -> ExpertRouting {
    let n = logits.rows();
    let spec = RouterSpec {
        num_experts: NUM_EXPERTS,
        num_chosen: NUM_CHOSEN,
        scores: RouterScores::Softmax,
        groups: None,
        normalises: true,
        scale: 1.0,
    };
    let mut routing =
        ExpertRouting::new(device, n, NUM_EXPERTS, NUM_CHOSEN).expect("a small routing fits");
    let args = RouteExperts { spec: &spec, choice_bias: None, expert_scales: None };
    route_experts(device, &mut routing, logits, &args);
    routing
}

#[test]
fn a_place_has_the_bits_of_its_expert_alone() {
    let x = random_f32(61, 200 * K);
    let logits = random_f32(62, 200 * NUM_EXPERTS);
    let bias = random_f32(63, NUM_EXPERTS * FEATURES);
    let formats = [WeightFormat::Q4K, WeightFormat::Q8_0, WeightFormat::BF16, WeightFormat::Mxfp4];
    for (simd, num_threads) in
        SimdLevel::available().into_iter().flat_map(|simd| [(simd, 1), (simd, 3)])
    {
        let device = Device::cpu_with(num_threads, simd);
        let load = |seed: usize| expert(&device, formats[seed % formats.len()], seed);
        let single: Vec<LinearWeight> = (0..NUM_EXPERTS).map(load).collect();
        let experts = (0..NUM_EXPERTS).map(load).collect();
        let weights =
            ExpertWeights::new(experts, Some(Tensor::from_f32(&bias, NUM_EXPERTS, FEATURES)))
                .expect("host memory");
        for n in [1, 2, 9, 200] {
            let routing = routing(&device, &logits[..n * NUM_EXPERTS]);
            let places = n * NUM_CHOSEN;
            let mut out = vec![f32::NAN; places * FEATURES];
            let view = ViewMut::from_f32(&mut out, places, FEATURES);
            let rows = View::from_f32(&x[..n * K], n, K);
            expert_linear(&device, view, ExpertInput::Rows(rows), &weights, &routing);
            for (expert, weight) in single.iter().enumerate() {
                let bias = &bias[expert * FEATURES..][..FEATURES];
                let bias = Tensor::from_f32(bias, 1, FEATURES);
                for place in routing.places_of_expert(expert) {
                    let row = routing.rows()[place] as usize;
                    let mut expected = [0.0; FEATURES];
                    let view = ViewMut::from_f32(&mut expected, 1, FEATURES);
                    linear(&device, view, rows_of(&x, row), weight, Some(&bias));
                    let got = &out[place * FEATURES..][..FEATURES];
                    assert_eq!(got, expected, "{simd:?}, {n} rows, expert {expert}");
                }
            }
        }
    }
}

fn rows_of(x: &[f32], row: usize) -> View<'_> {
    View::from_f32(&x[row * K..][..K], 1, K)
}

#[test]
fn a_head_has_the_bits_of_its_weight_alone() {
    let strides = HeadStrides { x: K + 3, out: FEATURES + 2 };
    let formats = [WeightFormat::Q8_0, WeightFormat::F16];
    for (simd, format) in
        SimdLevel::available().into_iter().flat_map(|simd| formats.map(|format| (simd, format)))
    {
        let device = Device::cpu_with(3, simd);
        let load = |seed: usize| expert(&device, format, seed);
        let single: Vec<LinearWeight> = (0..NUM_EXPERTS).map(load).collect();
        let weights = HeadWeights::new((0..NUM_EXPERTS).map(load).collect()).expect("small");
        for n in [1, 2, 37] {
            let (x_cols, out_cols) = (NUM_EXPERTS * strides.x, NUM_EXPERTS * strides.out);
            let x = random_f32(64, n * x_cols);
            let mut out = vec![f32::MAX; n * out_cols];
            let view = ViewMut::from_f32(&mut out, n, out_cols);
            head_linear(&device, view, View::from_f32(&x, n, x_cols), strides, &weights);
            for (row, head) in (0..n).flat_map(|row| (0..NUM_EXPERTS).map(move |h| (row, h))) {
                let mut expected = [0.0; FEATURES];
                let view = ViewMut::from_f32(&mut expected, 1, FEATURES);
                let x = &x[row * x_cols + head * strides.x..][..K];
                linear(&device, view, View::from_f32(x, 1, K), &single[head], None);
                let got = &out[row * out_cols + head * strides.out..][..strides.out];
                assert_eq!(got[..FEATURES], expected, "{simd:?} {format}, row {row}, head {head}");
                assert_eq!(got[FEATURES..], [f32::MAX; 2], "nothing beside it");
            }
        }
    }
}

#[test]
fn rows_made_on_the_way_have_the_bits_of_rows_made_before() {
    let (n, activation) = (19, Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 });
    let logits = random_f32(62, n * NUM_EXPERTS);
    let places = n * NUM_CHOSEN;
    let both: Vec<f32> = random_f32(65, places * 2 * K).iter().map(|x| 9.0 * x).collect();
    for (simd, format) in SimdLevel::available()
        .into_iter()
        .flat_map(|simd| [(simd, WeightFormat::Q4K), (simd, WeightFormat::BF16)])
    {
        let device = Device::cpu_with(3, simd);
        let experts = (0..NUM_EXPERTS).map(|seed| expert(&device, format, seed)).collect();
        let weights = ExpertWeights::new(experts, None).expect("host memory");
        let routing = routing(&device, &logits);
        let [mut before, mut on_the_way] = [0, 1].map(|_| vec![0.0; places * FEATURES]);
        let mut rows = vec![0.0; places * K];
        let gate_up = View::from_f32(&both, places, 2 * K);
        gated_mul(&device, ViewMut::from_f32(&mut rows, places, K), gate_up, activation);
        let out = ViewMut::from_f32(&mut before, places, FEATURES);
        let input = ExpertInput::Places(View::from_f32(&rows, places, K));
        expert_linear(&device, out, input, &weights, &routing);
        let mut made = vec![0.0; places * K];
        let gated = Gated { out: ViewMut::from_f32(&mut made, places, K), gate_up, activation };
        let out = ViewMut::from_f32(&mut on_the_way, places, FEATURES);
        expert_linear(&device, out, ExpertInput::Gated(gated), &weights, &routing);
        assert_eq!((before, rows), (on_the_way, made), "{simd:?} {format}");
    }
}

/// What the experts of each of these rows make of it, in the order of the row's experts.
fn rows_on_gpu(device: &Device, weights: &ExpertWeights, rows: Range<usize>) -> Vec<f32> {
    let k = weights.in_features();
    let random =
        |seed, cols: usize| random_activations(seed, rows.end * cols)[rows.start * cols..].to_vec();
    let place = |dtype, values: &[f32], cols| {
        device.tensor(dtype, values, rows.len(), cols).expect("a small matrix fits")
    };
    let logits = place(DType::F32, &random(67, NUM_EXPERTS), NUM_EXPERTS);
    let routing = routing_of(device, logits.view());
    let x = place(DType::BF16, &random(68, k), k);
    let out = device.allocate(DType::BF16, routing.num_places(), weights.out_features());
    let mut out = out.expect("a small matrix fits");
    expert_linear(device, out.view_mut(), ExpertInput::Rows(x.view()), weights, &routing);
    let (out, routing) = (out.read_f32(), routing.read());
    let place =
        |&place: &u32| &out[place as usize * weights.out_features()..][..weights.out_features()];
    (0..rows.len()).flat_map(|row| routing.places_of(row)).flat_map(place).copied().collect()
}

#[test]
fn on_a_gpu_a_place_has_the_same_bits_in_every_batch() {
    let _emulator = quire_sim::load();
    let device = Device::cuda(0).expect("the emulator is a GPU");
    // More weights than the warps of a block take at once, and more features than one block has.
    let (features, k) = (150, 2560);
    for format in [WeightFormat::Q4K, WeightFormat::Q8_0, WeightFormat::Mxfp4, WeightFormat::BF16] {
        let load = |seed| {
            let bytes = random_weight_bytes(format, features, k, seed as u64);
            LinearWeight::from_gguf(&device, format, &bytes, features, k, WeightPolicy::Packed)
                .expect("whole rows")
        };
        let weights = ExpertWeights::new((0..NUM_EXPERTS).map(load).collect(), None);
        let weights = weights.expect("small experts fit");
        // Tiles of 64, of 8 and of 16 rows.
        let whole = rows_on_gpu(&device, &weights, 0..90);
        let per_row = NUM_CHOSEN * features;
        for rows in [4..5, 30..70] {
            let own = &whole[rows.start * per_row..rows.end * per_row];
            assert!(rows_on_gpu(&device, &weights, rows.clone()) == own, "{format}, rows {rows:?}");
        }
    }
}
