//! Dequantization against the golden files that `tests/data/dequant/make_dequant.py` writes: equal bits.

use std::path::Path;

use quire_kernels::cpu::SimdLevel;
use quire_kernels::{
    Device, LinearWeight, Tensor, WeightFormat, WeightPolicy, dequantize_row, embedding,
};

/// The blocks of a golden file, and the float32 numbers that they stand for.
fn golden(format: WeightFormat) -> (Vec<u8>, Vec<f32>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/dequant");
    let name = format.name().to_lowercase();
    let mut blocks = std::fs::read(folder.join(format!("{name}.bin"))).expect("a golden file");
    let num_blocks = blocks.len() / (format.block_bytes() + 4 * format.block_elements());
    let values = blocks.split_off(num_blocks * format.block_bytes());
    let (values, rest) = values.as_chunks::<4>();
    assert!(num_blocks > 20 && rest.is_empty(), "{format}: golden file is cut");
    (blocks, values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}

fn assert_equal_bits(got: &[f32], want: &[f32], what: &str) {
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert_eq!(got.to_bits(), want.to_bits(), "{what}: [{i}] is {got}, not {want}");
    }
}

#[test]
fn every_format_has_the_bits_of_the_gguf_package() {
    for &format in WeightFormat::ALL {
        let (blocks, expected) = golden(format);
        let mut values = vec![f32::NAN; expected.len()];
        dequantize_row(format, &blocks, &mut values);
        assert_equal_bits(&values, &expected, format.name());
    }
}

#[test]
fn embedding_rows_have_them_on_every_instruction_set_and_policy() {
    for &format in WeightFormat::ALL {
        let (blocks, expected) = golden(format);
        let hidden = format.block_elements();
        let rows = expected.len() / hidden;
        let ids: Vec<u32> = (0..rows as u32).collect();
        for simd in SimdLevel::available() {
            let device = Device::cpu_with(3, simd);
            for policy in [WeightPolicy::Packed, WeightPolicy::Float32] {
                let table = LinearWeight::from_gguf(&device, format, &blocks, rows, hidden, policy)
                    .unwrap();
                let mut out = Tensor::from_f32(&vec![f32::NAN; expected.len()], rows, hidden);
                embedding(&device, out.view_mut(), (&ids).into(), (&table, 0), 1.0);
                assert_equal_bits(out.f32(), &expected, &format!("{format} {simd:?} {policy:?}"));
            }
        }
    }
}
