//! Shapes that test and time `embedding`.

use super::{embedding, reference};
use crate::cases::{Case, Kind, Work, in_place};
use crate::linear::cases::random_weight_bytes;
use crate::linear::{LinearWeight, WeightFormat, WeightPolicy, dequantize_row};

const VOCABULARY: usize = 23;
const HIDDEN: usize = 512;

pub fn cases() -> Vec<Case> {
    let formats = WeightFormat::ALL.iter();
    formats.flat_map(|&format| [case(1, format, 1.0), case(40, format, 24.5)]).collect()
}

/// Half of the table has the given format, the rest is Q4_1.
fn case(n: usize, format: WeightFormat, scale: f32) -> Case {
    let ids: Vec<u32> = (0..n).map(|i| (i * 7 % VOCABULARY) as u32).collect();
    let parts = [(format, VOCABULARY / 2), (WeightFormat::Q4_1, VOCABULARY - VOCABULARY / 2)];
    let bytes = parts.map(|(format, rows)| random_weight_bytes(format, rows, HIDDEN, 3));
    let mut table = Vec::new();
    for (&(format, rows), bytes) in parts.iter().zip(&bytes) {
        let mut values = vec![0.0; rows * HIDDEN];
        dequantize_row(format, bytes, &mut values);
        table.extend(values);
    }
    let input = ids.clone();
    Case {
        op: "embedding",
        name: format!("{n}x{HIDDEN} {format}"),
        work: Work { bytes: (8 * n * HIDDEN) as u64, operations: (n * HIDDEN) as u64 },
        tolerance: 0.0,
        cuda_tolerance: crate::cases::BF16_TOLERANCE,
        output_len: n * HIDDEN,
        run: Box::new(move |device, output| {
            let load = |(&(format, rows), bytes): (&(WeightFormat, usize), &Vec<u8>)| {
                let policy = WeightPolicy::Packed;
                LinearWeight::from_gguf(device, format, bytes, rows, HIDDEN, policy).expect("valid")
            };
            let table = LinearWeight::stack(parts.iter().zip(&bytes).map(load).collect());
            in_place(device, Kind::Numbers, output, (n, HIDDEN), |out| {
                embedding(device, out, (&input).into(), (&table, 0), scale);
            });
        }),
        reference: Box::new(move || reference::embedding(&ids, (&table, 0), HIDDEN, scale)),
    }
}
