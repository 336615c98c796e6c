//! Shapes that test and time `linear`, and random weights for other tests.

use super::{
    ActivationPrecision, ExpertInput, ExpertWeights, HeadStrides, HeadWeights, LinearWeight,
    WeightFormat, WeightPolicy, dequantize_row, expert_linear, head_linear, linear, reference,
};
use crate::cases::{
    BF16_TOLERANCE, Case, F32_TOLERANCE, Input, Kind, NO_CUDA_KERNEL, Work, in_place,
    random_activations, random_f32, rounded_to_bf16,
};
use crate::device::Device;
use crate::route_experts::cases::some_routing;
use crate::tensor::{Tensor, View};

/// n, out_features, in_features: odd on purpose; every format gets those whose rows are whole blocks.
const SHAPES: [(usize, usize, usize); 9] = [
    (1, 5, 7),
    (2, 33, 96),
    (3, 1, 32),
    (5, 50, 64),
    (8, 19, 576),
    (17, 64, 256),
    (64, 35, 768),
    (300, 6, 512),
    // More weights than the warps of a GPU's block take at once.
    (4, 18, 2560),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &format in WeightFormat::ALL {
        for &(n, out_features, k) in &SHAPES {
            if format.row_bytes(k).is_some() {
                let parts = [(format, out_features)];
                cases.push(case(n, k, &parts, Mode::Packed(ActivationPrecision::Int8), n % 2 == 1));
            }
        }
        let parts = [(format, 9)];
        cases.push(case(3, 256, &parts, Mode::Float32, false));
        cases.push(case(11, 768, &parts, Mode::Packed(ActivationPrecision::Int16), true));
    }
    for format in [WeightFormat::F16, WeightFormat::BF16] {
        let halves =
            SHAPES.map(|(n, out, k)| case(n, k, &[(format, out)], Mode::Halves, n % 2 == 1));
        cases.extend(halves);
    }
    cases.extend([3, 29].map(|n| logits_case(n, 96, 20)));
    let parts = [(WeightFormat::Q4K, 37), (WeightFormat::Q6K, 8), (WeightFormat::F16, 3)];
    for n in [1, 2, 29] {
        for precision in [ActivationPrecision::Int8, ActivationPrecision::Int16] {
            cases.push(case(n, 512, &parts, Mode::Packed(precision), true));
        }
    }
    cases
}

/// How the weight is kept and what it is multiplied with.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Float32,
    Halves,
    Packed(ActivationPrecision),
}

impl Mode {
    fn load(
        self,
        device: &Device,
        (format, out_features): (WeightFormat, usize),
        bytes: &[u8],
        k: usize,
    ) -> LinearWeight {
        let (policy, activations) = match self {
            Self::Float32 => (WeightPolicy::Float32, ActivationPrecision::default()),
            Self::Halves => (WeightPolicy::PackedHalves, ActivationPrecision::default()),
            Self::Packed(activations) => (WeightPolicy::Packed, activations),
        };
        LinearWeight::from_gguf(device, format, bytes, out_features, k, policy)
            .expect("valid")
            .with_activations(activations)
    }

    /// Largest difference when Σ |x · w| is about 1. Rounding x to steps of max |x| / L makes independent errors of about
    /// 0.3 / L of a product each, so their sum shrinks with the root of k; the largest of thousands is five times as large.
    fn tolerance(self, parts: &[(WeightFormat, usize)], k: usize) -> f32 {
        let is_float = |&(format, _): &(WeightFormat, usize)| format.block_elements() == 1;
        let rounding = |largest: f32| 5.0 * 1.15 / (largest * (k as f32).sqrt());
        match self {
            // F16 loses three bits; x has none to lose.
            Self::Halves => 1e-6 + rounding(512.0),
            _ if parts.iter().all(is_float) => 1e-6,
            Self::Float32 => 1e-6,
            Self::Packed(ActivationPrecision::Int8) => 1e-6 + rounding(127.0),
            Self::Packed(_) => 1e-6 + rounding(32512.0),
        }
    }
}

/// The output is a column slice of a wider matrix: it starts at column 3, and 2 columns follow.
const MARGIN: (usize, usize) = (3, 2);

/// What lies beside it, exact in every type.
const BESIDE: f32 = 8192.0;

fn case(n: usize, k: usize, parts: &[(WeightFormat, usize)], mode: Mode, with_bias: bool) -> Case {
    let out_features: usize = parts.iter().map(|part| part.1).sum();
    let bytes: Vec<Vec<u8>> =
        parts.iter().map(|&(format, rows)| random_weight_bytes(format, rows, k, 7)).collect();
    let mut weights = Vec::new();
    for (&(format, rows), bytes) in parts.iter().zip(&bytes) {
        let mut values = vec![0.0; rows * k];
        dequantize_row(format, bytes, &mut values);
        weights.extend(values);
    }
    // Weights lie in about [-1, 1], so that the sum of |x · w| is about 1: the tolerance is relative to it.
    let x = random_f32(8, n * k).iter().map(|x| 4.0 * x / k as f32).collect();
    let x = rounded_to_bf16(x);
    let bias = with_bias.then(|| random_activations(9, out_features));
    let names: Vec<&str> = parts.iter().map(|part| part.0.name()).collect();
    let mut input = Input::new(Kind::Activations, x.clone(), n, k);
    let mut bias_input =
        bias.clone().map(|bias| Input::new(Kind::Activations, bias, 1, out_features));
    let num_weight_bytes: usize = bytes.iter().map(Vec::len).sum();
    let parts = parts.to_vec();
    Case {
        op: "linear",
        name: format!("{n}x{k} -> {out_features} {} {mode:?}", names.join("|")),
        work: Work {
            bytes: (num_weight_bytes + 4 * n * (k + out_features)) as u64,
            operations: 2 * (n * k * out_features) as u64,
        },
        tolerance: mode.tolerance(&parts, k),
        cuda_tolerance: crate::cases::BF16_TOLERANCE,
        output_len: n * out_features,
        run: Box::new(move |device, output| {
            let parts = parts.iter().zip(&bytes);
            let load = parts.map(|(&part, bytes)| mode.load(device, part, bytes, k));
            let weight = LinearWeight::stack(load.collect());
            let bias = bias_input.as_mut().map(|bias| bias.on(device));
            run_strided(device, output, input.view(device), &weight, bias);
        }),
        reference: Box::new(move || {
            x.chunks(k).flat_map(|x| reference::linear_row(x, &weights, bias.as_deref())).collect()
        }),
    }
}

/// An output of F32, as of a router, and a bias of the same type.
fn logits_case(n: usize, k: usize, out_features: usize) -> Case {
    let bytes = random_weight_bytes(WeightFormat::BF16, out_features, k, 7);
    let mut weights = vec![0.0; out_features * k];
    dequantize_row(WeightFormat::BF16, &bytes, &mut weights);
    let (x, bias) = (random_activations(8, n * k), random_f32(9, out_features));
    let mut input = Input::new(Kind::Activations, x.clone(), n, k);
    let mut bias_input = Input::new(Kind::Numbers, bias.clone(), 1, out_features);
    Case {
        op: "linear",
        name: format!("{n}x{k} -> {out_features} f32"),
        work: Work { bytes: bytes.len() as u64, operations: 2 * (n * k * out_features) as u64 },
        tolerance: 1e-5,
        cuda_tolerance: F32_TOLERANCE,
        output_len: n * out_features,
        run: Box::new(move |device, output| {
            let mode = Mode::Packed(ActivationPrecision::default());
            let weight = mode.load(device, (WeightFormat::BF16, out_features), &bytes, k);
            let (x, bias) = (input.view(device), bias_input.on(device));
            in_place(device, Kind::Numbers, output, (n, out_features), |out| {
                linear(device, out, x, &weight, Some(bias));
            });
        }),
        reference: Box::new(move || {
            x.chunks(k).flat_map(|x| reference::linear_row(x, &weights, Some(&bias))).collect()
        }),
    }
}

/// Rows, experts, experts of a row, features, k.
type ExpertShape = (usize, usize, usize, usize, usize);

const EXPERT_SHAPES: [ExpertShape; 7] = [
    (1, 1, 1, 5, 32),
    (1, 8, 2, 33, 64),
    (5, 4, 3, 50, 96),
    (3, 4, 1, 9, 256),
    (40, 6, 2, 70, 256),
    (99, 3, 1, 9, 256),
    (300, 3, 1, 33, 256),
];

/// Formats whose kernels are checked with many rows too: of each kind of codes and scales one.
const CUDA_MANY_ROWS: [WeightFormat; 5] = [
    WeightFormat::BF16,
    WeightFormat::Q8_0,
    WeightFormat::Q3K,
    WeightFormat::Q4K,
    WeightFormat::Mxfp4,
];

/// `expert_linear` with every format, and with formats that differ from expert to expert.
pub fn expert_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &shape in &EXPERT_SHAPES {
        for &format in WeightFormat::ALL.iter().filter(|format| format.row_bytes(shape.4).is_some())
        {
            let mode = match shape.0 % 2 {
                0 => Mode::Packed(ActivationPrecision::Int16),
                _ => Mode::Packed(ActivationPrecision::Int8),
            };
            cases.push(expert_case(shape, &[format], mode));
        }
        cases.push(expert_case(shape, &[WeightFormat::F16], Mode::Float32));
    }
    let formats = [WeightFormat::Q4_0, WeightFormat::BF16, WeightFormat::Q8_0];
    cases.push(expert_case((29, 5, 2, 45, 128), &formats, Mode::Packed(ActivationPrecision::Int8)));
    cases
}

/// Expert e has format e, and the halves of its features are parts of their own.
fn expert_case(shape: ExpertShape, formats: &[WeightFormat], mode: Mode) -> Case {
    let (n, num_experts, num_chosen, half, k) = shape;
    let (features, num_places) = (2 * half, n * num_chosen);
    // Every second shape has an input for each place.
    let of_step = half % 2 == 1;
    let num_inputs = if of_step { n } else { num_places };
    let x = random_f32(8, num_inputs * k).iter().map(|x| 4.0 * x / k as f32).collect();
    let x = rounded_to_bf16(x);
    let bias = (n % 2 == 1).then(|| random_activations(9, num_experts * features));
    let formats: Vec<WeightFormat> = formats.iter().cycle().take(num_experts).copied().collect();
    let bytes = |expert: usize, part: usize| {
        random_weight_bytes(formats[expert], half, k, (2 * expert + part) as u64)
    };
    let bytes: Vec<[Vec<u8>; 2]> =
        (0..num_experts).map(|expert| [bytes(expert, 0), bytes(expert, 1)]).collect();
    let name =
        format!("{n}x{k} -> {features}, {num_chosen} of {num_experts}, {formats:?} {mode:?}");
    let parts: Vec<_> = formats.iter().map(|&format| (format, half)).collect();
    let mut input = Input::new(Kind::Activations, x.clone(), num_inputs, k);
    let (load_bytes, load_bias) = (bytes.clone(), bias.clone());
    let load_parts = parts.clone();
    let num_bytes: usize = bytes.iter().flatten().map(Vec::len).sum();
    Case {
        op: "expert_linear",
        name,
        work: Work { bytes: num_bytes as u64, operations: 2 * (num_places * k * features) as u64 },
        tolerance: mode.tolerance(&parts, k),
        cuda_tolerance: match formats
            .iter()
            .all(|format| n < 100 || CUDA_MANY_ROWS.contains(format))
        {
            true => BF16_TOLERANCE,
            false => NO_CUDA_KERNEL,
        },
        output_len: num_places * features,
        run: Box::new(move |device, output| {
            let load = |(&part, bytes): (&(WeightFormat, usize), &[Vec<u8>; 2])| {
                LinearWeight::stack(bytes.iter().map(|b| mode.load(device, part, b, k)).collect())
            };
            let experts = load_parts.iter().zip(&load_bytes).map(load).collect();
            let bias = load_bias.as_ref().map(|bias| {
                let dtype = device.activation_dtype();
                device.tensor(dtype, bias, num_experts, features).expect("a case fits the device")
            });
            let weights = ExpertWeights::new(experts, bias).expect("a case fits the device");
            let routing = some_routing(device, n, num_experts, num_chosen);
            let x = input.view(device);
            let input = if of_step { ExpertInput::Rows(x) } else { ExpertInput::Places(x) };
            in_place(device, Kind::Activations, output, (num_places, features), |out| {
                expert_linear(device, out, input, &weights, &routing);
            });
        }),
        reference: Box::new(move || {
            let routing = some_routing(&Device::cpu(1), n, num_experts, num_chosen);
            let mut out = Vec::new();
            for expert in 0..num_experts {
                let mut weights = vec![0.0; features * k];
                for (bytes, weights) in bytes[expert].iter().zip(weights.chunks_mut(half * k)) {
                    dequantize_row(parts[expert].0, bytes, weights);
                }
                for place in routing.places_of_expert(expert) {
                    let row = if of_step { routing.rows()[place] as usize } else { place };
                    let bias = bias.as_ref().map(|bias| &bias[expert * features..][..features]);
                    out.extend(reference::linear_row(&x[row * k..][..k], &weights, bias));
                }
            }
            out
        }),
    }
}

/// Rows, heads, features, k, columns from head to head of x and of the output.
type HeadShape = (usize, usize, usize, usize, [usize; 2]);

const HEAD_SHAPES: [HeadShape; 6] = [
    (1, 1, 5, 7, [9, 6]),
    (3, 4, 33, 16, [24, 40]),
    (16, 3, 200, 40, [48, 208]),
    (17, 2, 24, 32, [40, 24]),
    (70, 5, 19, 64, [64, 21]),
    (5, 2, 512, 128, [192, 576]),
];

/// `head_linear` with a matrix for each head.
pub fn head_cases() -> Vec<Case> {
    HEAD_SHAPES.into_iter().map(head_case).collect()
}

fn head_case((n, heads, features, k, [x_head, out_head]): HeadShape) -> Case {
    let strides = HeadStrides { x: x_head, out: out_head };
    let (x_cols, out_cols) = ((heads - 1) * x_head + k, (heads - 1) * out_head + features);
    let x: Vec<f32> = random_activations(8, n * x_cols);
    let bytes = random_weight_bytes(WeightFormat::BF16, heads * features, k, 10);
    let mut weights = vec![0.0; heads * features * k];
    dequantize_row(WeightFormat::BF16, &bytes, &mut weights);
    let mut input = Input::new(Kind::Activations, x.clone(), n, x_cols);
    Case {
        op: "head_linear",
        name: format!("{n} rows, {heads} heads of {k} -> {features}"),
        work: Work {
            bytes: (2 * weights.len() + 4 * n * (x_cols + out_cols)) as u64,
            operations: (2 * n * weights.len()) as u64,
        },
        tolerance: 1e-4,
        cuda_tolerance: crate::cases::BF16_TOLERANCE,
        output_len: n * out_cols,
        run: Box::new(move |device, output| {
            let load =
                |bytes: &[u8]| Mode::Float32.load(device, (WeightFormat::BF16, features), bytes, k);
            let weights = bytes.chunks(2 * features * k).map(load).collect();
            let weights = HeadWeights::new(weights).expect("small weights");
            output.fill(0.0);
            in_place(device, Kind::Activations, output, (n, out_cols), |out| {
                head_linear(device, out, input.view(device), strides, &weights);
            });
        }),
        reference: Box::new(move || {
            let mut out = vec![0.0; n * out_cols];
            for (x, out) in x.chunks(x_cols).zip(out.chunks_mut(out_cols)) {
                for (head, weights) in weights.chunks(features * k).enumerate() {
                    let row = reference::linear_row(&x[head * x_head..][..k], weights, None);
                    out[head * out_head..][..features].copy_from_slice(&row);
                }
            }
            out
        }),
    }
}

/// Runs `linear` into a column slice of a wider matrix and checks that nothing beside it changed.
fn run_strided(
    device: &Device,
    output: &mut [f32],
    x: View,
    weight: &LinearWeight,
    bias: Option<&Tensor>,
) {
    let width = MARGIN.0 + weight.out_features() + MARGIN.1;
    let columns = MARGIN.0..width - MARGIN.1;
    let mut wide = vec![BESIDE; x.rows() * width];
    in_place(device, Kind::Activations, &mut wide, (x.rows(), width), |out| {
        linear(device, out.columns(columns.clone()), x, weight, bias);
    });
    for (row, output) in wide.chunks(width).zip(output.chunks_mut(weight.out_features())) {
        output.copy_from_slice(&row[columns.clone()]);
        let beside = row[..columns.start].iter().chain(&row[columns.end..]);
        assert!(beside.clone().all(|&v| v == BESIDE), "linear wrote beside its output");
    }
}

/// Repeatable weights of about [-1, 1] as the bytes of a GGUF tensor `[out_features, in_features]`.
pub fn random_weight_bytes(
    format: WeightFormat,
    out_features: usize,
    in_features: usize,
    seed: u64,
) -> Vec<u8> {
    let len = out_features * format.row_bytes(in_features).expect("whole blocks");
    let random = random_f32(seed, len);
    let mut bytes: Vec<u8> = random.iter().map(|v| ((v + 1.0) * 127.5) as u8).collect();
    for (block, &v) in bytes.chunks_exact_mut(format.block_bytes()).zip(&random) {
        let f16 = |v: f32| half::f16::from_f32(v).to_le_bytes();
        // Scales in [largest / 2, largest], and minima of half the range.
        let scale = |largest: f32| f16(largest * (3.0 + v) / 4.0);
        match format {
            WeightFormat::F32 => block.copy_from_slice(&v.to_le_bytes()),
            WeightFormat::F16 => block.copy_from_slice(&f16(v)),
            WeightFormat::BF16 => block.copy_from_slice(&half::bf16::from_f32(v).to_le_bytes()),
            WeightFormat::Q4_0 => block[..2].copy_from_slice(&scale(1.0 / 8.0)),
            WeightFormat::Q5_0 => block[..2].copy_from_slice(&scale(1.0 / 16.0)),
            WeightFormat::Q8_0 | WeightFormat::Iq4Nl => {
                block[..2].copy_from_slice(&scale(1.0 / 127.0));
            }
            WeightFormat::Q4_1 => {
                block[..2].copy_from_slice(&scale(2.0 / 15.0));
                block[2..4].copy_from_slice(&f16(-1.0 + v / 8.0));
            }
            WeightFormat::Q5_1 => {
                block[..2].copy_from_slice(&scale(2.0 / 31.0));
                block[2..4].copy_from_slice(&f16(-1.0 + v / 8.0));
            }
            WeightFormat::Q2K => {
                block[80..82].copy_from_slice(&scale(2.0 / (15.0 * 3.0)));
                block[82..84].copy_from_slice(&scale(1.0 / 15.0));
            }
            WeightFormat::Q3K => block[108..].copy_from_slice(&scale(1.0 / (32.0 * 4.0))),
            WeightFormat::Q4K | WeightFormat::Q5K => {
                let levels = if format == WeightFormat::Q4K { 15.0 } else { 31.0 };
                block[..2].copy_from_slice(&scale(2.0 / (63.0 * levels)));
                block[2..4].copy_from_slice(&scale(1.0 / 63.0));
            }
            WeightFormat::Q6K => block[208..].copy_from_slice(&scale(1.0 / (128.0 * 32.0))),
            WeightFormat::Iq4Xs => block[..2].copy_from_slice(&scale(1.0 / (32.0 * 127.0))),
            WeightFormat::Iq2Xxs | WeightFormat::Iq2Xs | WeightFormat::Iq2S => {
                block[..2].copy_from_slice(&scale(8.0 / (31.0 * 43.0)));
            }
            WeightFormat::Iq3Xxs => block[..2].copy_from_slice(&scale(4.0 / (31.0 * 62.0))),
            WeightFormat::Iq3S => block[..2].copy_from_slice(&scale(1.0 / (31.0 * 15.0))),
            WeightFormat::Iq1S => block[..2].copy_from_slice(&scale(8.0 / (15.0 * 9.0))),
            WeightFormat::Iq1M => {
                // The scale's nibbles lie above four groups of scales.
                let d = u16::from_le_bytes(scale(8.0 / (15.0 * 9.0)));
                for quarter in 0..4 {
                    let at = 49 + 2 * quarter;
                    block[at] = block[at] & 15 | ((d >> (4 * quarter) & 15) as u8) << 4;
                }
            }
            WeightFormat::Tq1_0 => block[52..].copy_from_slice(&scale(1.0)),
            WeightFormat::Tq2_0 => block[64..].copy_from_slice(&scale(0.5)),
            WeightFormat::Q1_0 => block[..2].copy_from_slice(&scale(1.0)),
            WeightFormat::Q2_0 => block[..2].copy_from_slice(&scale(0.5)),
            // Scales of 3/64 to 15/128, numbers up to 6.
            WeightFormat::Nvfp4 => block[..4].iter_mut().for_each(|e| *e = 0x15 + *e % 8),
            WeightFormat::Mxfp4 => block[0] = 125 - u8::from(v > 0.0),
        }
    }
    bytes
}
