//! What every GPU of compute capability 8.0 has: `ldmatrix`, `mma.sync`, `cp.async`, conversions.

use half::{bf16, f16};

use super::{Finding, filled, launch, pairs, small};
use crate::cases::random_f32;
use crate::cuda::CudaDevice;

/// Lane l gets of each matrix the elements 2 (l % 4) and the next of row l / 4; transposed, of column l / 4.
pub(super) fn ldmatrix(cuda: &CudaDevice) -> Vec<Finding> {
    let element =
        |matrix: usize, row: usize, column: usize| (1000 * matrix + 10 * row + column) as u16 + 1;
    let rows = (0..32).flat_map(|row| (0..8).map(move |column| (row / 8, row % 8, column)));
    let rows: Vec<u16> = rows.map(|(matrix, row, column)| element(matrix, row, column)).collect();
    let input = filled(cuda, &pairs(&rows));
    let got = launch(cuda, "probe_ldmatrix", (1, 32, 32 * 32), 256, &[input.pointer().into()]);
    let places = || (0..32).flat_map(|lane| (0..4).map(move |register| (lane, register)));
    let plain = places()
        .flat_map(|(lane, matrix)| [0, 1].map(|i| element(matrix, lane / 4, 2 * (lane % 4) + i)));
    let transposed = places()
        .flat_map(|(lane, matrix)| [0, 1].map(|i| element(matrix, 2 * (lane % 4) + i, lane / 4)));
    let expected = pairs(&plain.chain(transposed).collect::<Vec<_>>());
    vec![Finding::bits("x4, plain and transposed", got, expected)]
}

/// Row and column of register `i` of lane `lane` in the fragments of m16n8k16: a pair of A, a pair of B, a number of D.
fn place_of_a(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i % 2), 2 * (lane % 4) + 8 * (i / 2))
}

fn place_of_b(lane: usize, i: usize) -> (usize, usize) {
    (2 * (lane % 4) + 8 * i, lane / 4)
}

fn place_of_d(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2)
}

/// D = A · B + D of 16 x 16, 16 x 8: whole numbers must be exact, others near the sum in float64.
pub(super) fn mma(cuda: &CudaDevice) -> Vec<Finding> {
    let whole =
        |seed: usize| move |row: usize, column: usize| small(seed + 31 * row + column) as f32;
    let exact = multiply(cuda, &whole(1), &whole(500), &whole(900));
    let random: Vec<Vec<f32>> = (0..3).map(|seed| random_f32(seed, 256)).collect();
    // What falls below the largest term of a sum is where units differ: D is far from A · B.
    let of = |matrix: usize, factor: f32| {
        let values = &random[matrix];
        move |row: usize, column: usize| bf16::from_f32(values[16 * row + column] * factor).to_f32()
    };
    let near = multiply(cuda, &of(0, 1.0), &of(1, 1.0), &of(2, 1.0));
    let far = multiply(cuda, &of(0, 1e-3), &of(1, 1.0), &of(2, 100.0));
    vec![
        Finding::floats("whole numbers", exact.0, &exact.1, 0.0),
        Finding::floats("numbers of one size", near.0, &near.1, 2e-6),
        Finding::floats("small products on large sums", far.0, &far.1, 2e-6),
    ]
}

/// Registers of D as the GPU has them, and in float64.
fn multiply(
    cuda: &CudaDevice,
    a: &dyn Fn(usize, usize) -> f32,
    b: &dyn Fn(usize, usize) -> f32,
    d: &dyn Fn(usize, usize) -> f32,
) -> (Vec<u32>, Vec<f32>) {
    let word = |low: f32, high: f32| {
        u32::from(bf16::from_f32(low).to_bits()) | u32::from(bf16::from_f32(high).to_bits()) << 16
    };
    let lanes = |registers: usize| {
        (0..32_usize).flat_map(move |lane| (0..registers).map(move |i| (lane, i)))
    };
    let of_a = |(lane, i)| {
        let (row, k) = place_of_a(lane, i);
        word(a(row, k), a(row, k + 1))
    };
    let of_b = |(lane, i)| {
        let (k, column) = place_of_b(lane, i);
        word(b(k, column), b(k + 1, column))
    };
    let of_d = |(lane, i)| {
        let (row, column) = place_of_d(lane, i);
        d(row, column).to_bits()
    };
    let inputs = [
        lanes(4).map(of_a).collect::<Vec<u32>>(),
        lanes(2).map(of_b).collect(),
        lanes(4).map(of_d).collect(),
    ];
    let inputs = inputs.map(|words| filled(cuda, &words));
    let arguments = [0, 1, 2].map(|i: usize| inputs[i].pointer().into());
    let got = launch(cuda, "probe_mma", (1, 32, 0), 128, &arguments);
    let sum = |(lane, i)| {
        let (row, column) = place_of_d(lane, i);
        let products = (0..16).map(|k| f64::from(a(row, k)) * f64::from(b(k, column)));
        (products.sum::<f64>() + f64::from(d(row, column))) as f32
    };
    (got, lanes(4).map(sum).collect())
}

/// 16 bytes a thread in three groups; thread t of group g reads nothing where t % 7 = g.
pub(super) fn cp_async(cuda: &CudaDevice) -> Vec<Finding> {
    let words: Vec<u32> = (1..=3 * 64 * 4).collect();
    let input = filled(cuda, &words);
    let shared_bytes = 3 * 64 * 16;
    let len = words.len();
    let got = launch(cuda, "probe_cp_async", (1, 64, shared_bytes), len, &[input.pointer().into()]);
    let expected = (0..len).map(|at| {
        let (group, thread, word) = (at / 256, 63 - at % 256 / 4, at % 4);
        if thread % 7 == group { 0 } else { words[group * 256 + thread * 4 + word] }
    });
    vec![Finding::bits("three groups, with zeros", got, expected.collect())]
}

/// Every float16, and rounding to BF16 of ties, infinities, numbers too large and none.
pub(super) fn conversions(cuda: &CudaDevice) -> Vec<Finding> {
    const COUNT: usize = 1 << 16;
    let special = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::NAN, 1e-40, 3.0e-39];
    // Both halves of a step of BF16, and what lies just beside: ties go to the even neighbour.
    let bits = |i: usize| f32::from_bits((i as u32) << 14 ^ [0, 1, 0x8000, 0x7FFF][i % 4]);
    let x: Vec<f32> = (0..COUNT).map(|i| special.get(i).copied().unwrap_or(bits(i))).collect();
    let y: Vec<f32> = random_f32(5, COUNT).iter().map(|v| v * 4.0).collect();
    let words = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
    let (at_x, at_y) = (filled(cuda, &words(&x)), filled(cuda, &words(&y)));
    let arguments = [at_x.pointer().into(), at_y.pointer().into(), COUNT.into()];
    let got = launch(cuda, "probe_numbers", (COUNT / 256, 256, 0), 3 * COUNT, &arguments);
    let round = |v: f32| if v.is_nan() { bf16::from_bits(0x7FFF) } else { bf16::from_f32(v) };
    let pair = |low: bf16, high: bf16| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16;
    let rounded = |i: usize| (round(x[i]), round(y[i]));
    let pairs = (0..COUNT).map(|i| pair(rounded(i).0, rounded(i).1));
    let sums = (0..COUNT).map(|i| {
        let (low, high) = rounded(i);
        let add = |v: bf16| round(v.to_f32() + high.to_f32());
        pair(add(low), add(high))
    });
    let halves: Vec<f32> = (0..COUNT).map(|i| f16::from_bits(i as u16).to_f32()).collect();
    let (first, rest) = got.split_at(COUNT);
    let (second, third) = rest.split_at(COUNT);
    vec![
        Finding::bits("float32 to BF16", first.to_vec(), pairs.collect()),
        Finding::bits("sums of BF16", second.to_vec(), sums.collect()),
        Finding::floats("float16 to float32", third.to_vec(), &halves, 0.0),
    ]
}

/// The manual allows 2 units in the last place.
pub(super) fn ex2(cuda: &CudaDevice) -> Vec<Finding> {
    let x: Vec<f32> = random_f32(6, 4096).iter().map(|v| v * 30.0 - 28.0).collect();
    let input = filled(cuda, &x.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
    let arguments = [input.pointer().into(), x.len().into()];
    let got = launch(cuda, "probe_ex2", (x.len() / 256, 256, 0), x.len(), &arguments);
    let expected: Vec<f32> = x.iter().map(|&v| f64::from(v).exp2() as f32).collect();
    vec![Finding::floats("2^x", got, &expected, 2.5e-7)]
}
