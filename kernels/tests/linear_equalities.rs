//! Batch invariance of `linear`: a row's result has the same bits in every batch, with every number of threads.

use quire_kernels::cases::random_f32;
use quire_kernels::cpu::SimdLevel;
use quire_kernels::linear::cases::random_weight_bytes;
use quire_kernels::linear::reference::{halves_row, packed_linear_row};
use quire_kernels::{
    ActivationPrecision, Device, LinearError, LinearWeight, Tensor, View, WeightFormat,
    WeightPolicy, dequantize_row, linear,
};

const BATCHES: [usize; 8] = [1, 2, 3, 7, 8, 31, 64, 200];
const MOST_ROWS: usize = 200;

fn load(device: &Device, format: WeightFormat, out: usize, k: usize) -> LinearWeight {
    let bytes = random_weight_bytes(format, out, k, 1);
    LinearWeight::from_gguf(device, format, &bytes, out, k, WeightPolicy::Packed)
        .expect("whole rows")
}

fn run(device: &Device, weight: &LinearWeight, x: &[f32], bias: &Tensor) -> Vec<f32> {
    let rows = x.len() / weight.in_features();
    let mut out = vec![f32::NAN; rows * weight.out_features()];
    let view = quire_kernels::ViewMut::from_f32(&mut out, rows, weight.out_features());
    linear(device, view, View::from_f32(x, rows, weight.in_features()), weight, Some(bias));
    out
}

/// Batches of every size, taken from different places of `x`, have the bits of their single rows.
fn check(device: &[Device], weight: &dyn Fn(&Device) -> LinearWeight, what: &str) {
    let weights: Vec<LinearWeight> = device.iter().map(weight).collect();
    let (out, k) = (weights[0].out_features(), weights[0].in_features());
    let x = random_f32(2, MOST_ROWS * k);
    let bias = Tensor::from_f32(&random_f32(3, out), 1, out);
    let single: Vec<f32> =
        x.chunks(k).flat_map(|row| run(&device[0], &weights[0], row, &bias)).collect();
    for (device, weight) in device.iter().zip(&weights) {
        for batch in BATCHES {
            let first = MOST_ROWS - batch;
            let rows = run(device, weight, &x[first * k..], &bias);
            let same =
                rows.iter().zip(&single[first * out..]).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{what}: a batch of {batch} rows differs from its rows alone");
        }
    }
}

fn for_every_level(check: impl Fn(&[Device], SimdLevel)) {
    for simd in SimdLevel::available() {
        check(&[1, 3].map(|num_threads| Device::cpu_with(num_threads, simd)), simd);
    }
}

const PRECISIONS: [ActivationPrecision; 2] =
    [ActivationPrecision::Int8, ActivationPrecision::Int16];

fn quantized_formats() -> impl Iterator<Item = WeightFormat> {
    WeightFormat::ALL.iter().copied().filter(|format| format.block_elements() > 1)
}

#[test]
fn a_row_has_the_same_bits_in_every_batch() {
    for_every_level(|devices, simd| {
        for &format in WeightFormat::ALL {
            let k = if format.block_elements() == 1 { 203 } else { 256 };
            for precision in PRECISIONS {
                let load =
                    |device: &Device| load(device, format, 45, k).with_activations(precision);
                check(devices, &load, &format!("{simd:?} {format} {precision:?}"));
            }
        }
    });
}

/// Columns that begin and end inside of blocks: their sums are those of the whole rows where everything else is 0.
#[test]
fn columns_cut_inside_of_blocks_have_the_bits_of_whole_rows() {
    const OUT: usize = 37;
    let row_len = 768;
    for_every_level(|devices, simd| {
        for format in quantized_formats() {
            let bytes = random_weight_bytes(format, OUT, row_len, 5);
            let block = format.block_elements();
            for columns in [0..128, 128..768, 128..640, 64..704, 192..256, 0..448] {
                let first = columns.start / block * block;
                let covering = first..columns.end.next_multiple_of(block);
                let row = |row: usize| {
                    let bytes = &bytes[row * bytes.len() / OUT..(row + 1) * bytes.len() / OUT];
                    let at = |column: usize| format.row_bytes(column).expect("whole blocks");
                    bytes[at(covering.start)..at(covering.end)].to_vec()
                };
                let own: Vec<u8> = (0..OUT).flat_map(row).collect();
                let inside = columns.start - first..columns.end - first;
                let load = |policy| {
                    let inside = (covering.len(), &inside);
                    LinearWeight::from_columns(&devices[1], format, &own, OUT, inside, policy)
                        .expect("on a CPU blocks are cut")
                };
                let (part, whole) = (load(WeightPolicy::Packed), |policy| {
                    LinearWeight::from_gguf(&devices[1], format, &bytes, OUT, row_len, policy)
                        .expect("whole rows")
                });
                let x = random_f32(6, 9 * columns.len());
                let spread: Vec<f32> = x
                    .chunks(columns.len())
                    .flat_map(|x| {
                        let mut row = vec![0.0; row_len];
                        row[columns.clone()].copy_from_slice(x);
                        row
                    })
                    .collect();
                let bias = Tensor::from_f32(&[0.0; OUT], 1, OUT);
                let bits = |sums: Vec<f32>| sums.into_iter().map(f32::to_bits).collect::<Vec<_>>();
                let what = format!("{simd:?} {format} {columns:?}");
                let expected = run(&devices[1], &whole(WeightPolicy::Packed), &spread, &bias);
                assert!(bits(run(&devices[1], &part, &x, &bias)) == bits(expected), "{what}");
                let float = load(WeightPolicy::Float32);
                let got = run(&devices[1], &float, &x, &bias);
                let expected = run(&devices[1], &whole(WeightPolicy::Float32), &spread, &bias);
                let is_near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * b.abs().max(1.0);
                assert!(got.iter().zip(&expected).all(is_near), "{what}, as float32");
            }
        }
    });
}

/// The plain loop knows nothing of tiles, panels, planes and registers; so all instruction sets agree too.
#[test]
fn packed_sums_have_the_bits_of_the_plain_loop() {
    const OUT: usize = 70;
    for_every_level(|devices, simd| {
        for format in quantized_formats() {
            // A row may end within a pair of blocks.
            let k = [224, 192, 640, 768][[32, 64, 128, 256]
                .iter()
                .position(|&n| n == format.block_elements())
                .expect("a size of blocks")];
            let mut x = random_f32(5, 15 * k);
            x[..k / 2].fill(0.0);
            x[k..2 * k].iter_mut().for_each(|x| *x *= 1e-12);
            x[2 * k + 7] = 1e9;
            let bytes = random_weight_bytes(format, OUT, k, 1);
            for precision in PRECISIONS {
                let expected: Vec<f32> = x
                    .chunks(k)
                    .flat_map(|x| packed_linear_row(x, format, &bytes, precision))
                    .collect();
                for device in devices {
                    let weight = load(device, format, OUT, k).with_activations(precision);
                    let zeros = Tensor::from_f32(&[0.0; OUT], 1, OUT);
                    let got = run(device, &weight, &x, &zeros);
                    let different = got.iter().zip(&expected).position(|(a, b)| a != b);
                    assert_eq!(different, None, "{simd:?} {format} {precision:?}");
                }
            }
        }
    });
}

const HALVES: [WeightFormat; 2] = [WeightFormat::F16, WeightFormat::BF16];

fn load_halves(device: &Device, format: WeightFormat, out: usize, k: usize) -> LinearWeight {
    let bytes = random_weight_bytes(format, out, k, 1);
    LinearWeight::from_gguf(device, format, &bytes, out, k, WeightPolicy::PackedHalves)
        .expect("whole rows")
        .with_activations(ActivationPrecision::Int16)
}

#[test]
fn a_row_of_halves_has_the_same_bits_in_every_batch() {
    for_every_level(|devices, simd| {
        for format in HALVES {
            let load = |device: &Device| load_halves(device, format, 45, 203);
            check(devices, &load, &format!("{simd:?} {format}"));
        }
    });
}

/// The instruction of the machine does what the manual says.
#[test]
fn sums_of_halves_have_the_bits_of_the_plain_loop() {
    const OUT: usize = 70;
    if SimdLevel::detect() < SimdLevel::Avx512Bf16 {
        eprintln!("no dot products of BF16 on this machine");
        return;
    }
    for device in [1, 3].map(Device::cpu) {
        for (format, k) in HALVES.into_iter().flat_map(|format| [(format, 203), (format, 640)]) {
            let x: Vec<f32> = random_f32(5, 15 * k);
            let bytes = random_weight_bytes(format, OUT, k, 1);
            let mut weights = vec![0.0; OUT * k];
            dequantize_row(format, &bytes, &mut weights);
            let weights: Vec<half::bf16> = weights.into_iter().map(half::bf16::from_f32).collect();
            let expected: Vec<f32> = x.chunks(k).flat_map(|x| halves_row(x, &weights)).collect();
            let weight = load_halves(&device, format, OUT, k);
            let got = run(&device, &weight, &x, &Tensor::from_f32(&[0.0; OUT], 1, OUT));
            let different = got.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!(different, None, "{format} of {k}");
        }
    }
}

#[test]
fn a_number_that_is_not_finite_spoils_its_row_only() {
    for_every_level(|devices, simd| {
        for format in quantized_formats().chain(HALVES) {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = random_f32(5, 3 * 256);
                x[256 + 100] = bad;
                let weight = match format.block_elements() {
                    1 => load_halves(&devices[1], format, 33, 256),
                    _ => load(&devices[1], format, 33, 256),
                };
                let out = run(&devices[1], &weight, &x, &Tensor::from_f32(&[0.0; 33], 1, 33));
                let is_finite: Vec<bool> =
                    out.chunks(33).map(|row| row.iter().all(|v| v.is_finite())).collect();
                assert_eq!(is_finite, [true, false, true], "{simd:?} {format} {bad}");
            }
        }
    });
}

#[test]
fn a_stack_has_the_bits_of_its_parts() {
    for_every_level(|devices, simd| {
        let [int8, int16] = PRECISIONS;
        let parts = [
            (WeightFormat::Q4K, 6, int8),
            (WeightFormat::Q6K, 17, int16),
            (WeightFormat::F16, 9, int8),
        ];
        let part = |device: &Device, &(format, out, precision): &_| {
            load(device, format, out, 512).with_activations(precision)
        };
        let stack = |device: &Device| {
            LinearWeight::stack(parts.iter().map(|spec| part(device, spec)).collect())
        };
        check(devices, &stack, &format!("{simd:?} stack"));
        let (device, x) = (&devices[0], random_f32(2, 512));
        let zeros = |out| Tensor::from_f32(&vec![0.0; out], 1, out);
        let alone: Vec<f32> = parts
            .iter()
            .flat_map(|spec| run(device, &part(device, spec), &x, &zeros(spec.1)))
            .collect();
        assert_eq!(run(device, &stack(device), &x, &zeros(32)), alone);
    });
}

#[test]
fn float32_weights_give_the_bits_of_weights_that_are_floats() {
    for_every_level(|devices, simd| {
        for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::BF16] {
            let bytes = random_weight_bytes(format, 10, 256, 1);
            let load = |policy| {
                LinearWeight::from_gguf(&devices[0], format, &bytes, 10, 256, policy).unwrap()
            };
            let bias = Tensor::from_f32(&[0.5; 10], 1, 10);
            let x = random_f32(2, 9 * 256);
            let [packed, float32] = [WeightPolicy::Packed, WeightPolicy::Float32]
                .map(|policy| run(&devices[0], &load(policy), &x, &bias));
            assert_eq!(packed, float32, "{simd:?} {format}");
        }
    });
}

#[test]
fn packed_weights_take_the_bytes_that_are_planned() {
    let device = Device::cpu(1);
    for &format in WeightFormat::ALL {
        let (out, k) = (96, 512);
        let weight = load(&device, format, out, k);
        assert_eq!(Some(weight.num_bytes()), format.packed_bytes(out, k));
        if HALVES.contains(&format) {
            let halves = load_halves(&device, format, 70, 203);
            assert!(halves.num_bytes() <= format.packed_bytes(70, 203).expect("small"));
        }
        let bits = 8.0 * weight.num_bytes() as f64 / (out * k) as f64;
        let in_file = 8.0 * format.block_bytes() as f64 / format.block_elements() as f64;
        let most = match format.name() {
            // Codebooks become indices of 3 or 4 bits a weight, base-3 digits and signs 2 bits.
            name if name.starts_with("IQ1") || name.starts_with("IQ2") => 3.57,
            "IQ3_XXS" | "IQ3_S" => 4.32,
            "TQ1_0" => 2.07,
            "Q1_0" => 2.13,
            // Six-bit scales become bytes.
            _ => 1.04 * in_file,
        };
        println!("{format}: {in_file} bits a weight in files, {bits} in memory");
        assert!(bits <= most, "{format}: {bits} bits a weight");
    }
}

#[test]
fn wrong_lengths_are_errors_that_say_so() {
    let device = Device::cpu(1);
    let load = |len, out, k| {
        LinearWeight::from_gguf(
            &device,
            WeightFormat::Q4_0,
            &vec![0; len],
            out,
            k,
            WeightPolicy::Packed,
        )
        .map(|weight| weight.num_bytes())
        .map_err(|error: LinearError| error.to_string())
    };
    assert_eq!(load(72, 2, 64), Ok(32 * 36));
    assert_eq!(load(71, 2, 64), Err("Q4_0 2x64 takes 72 bytes, the data has 71".to_owned()));
    assert_eq!(
        load(36, 2, 33),
        Err("Q4_0: a row of 33 weights is not a whole number of blocks of 32".to_owned())
    );
    let huge = usize::MAX / 32 * 32;
    assert_eq!(load(1, 32, huge), Err(format!("cannot allocate a weight of 32x{huge}")));
}

#[test]
fn tracing_checks_shapes_and_logs() {
    let (device, log) = Device::trace();
    let weight = LinearWeight::stack(vec![
        LinearWeight::shape_only(576, 576),
        LinearWeight::shape_only(384, 576),
    ]);
    let x = device.allocate(quire_kernels::DType::F32, 3, 576).unwrap();
    let bias = device.allocate(quire_kernels::DType::F32, 1, 960).unwrap();
    let mut out = device.allocate(quire_kernels::DType::F32, 3, 960).unwrap();
    linear(&device, out.view_mut(), x.view(), &weight, None);
    linear(&device, out.view_mut(), x.view(), &weight, Some(&bias));
    assert_eq!(log.lines(), ["linear 3x576 -> 960", "linear 3x576 -> 960 bias"]);
}
