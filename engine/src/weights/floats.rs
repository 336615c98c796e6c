//! Weights that are floats, from one width to another.

use half::{bf16, f16};

use quire_kernels::{WeightFormat, dequantize_row};

/// Numbers that are not quantized.
pub(crate) fn is_float(format: WeightFormat) -> bool {
    matches!(format, WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16)
}

/// The `count` floats that `bytes` hold in the format `from`, rounded to nearest even into the format `to`. Panics where
/// one of both is quantized.
pub(super) fn encode_floats(
    to: WeightFormat,
    from: WeightFormat,
    bytes: &[u8],
    count: usize,
) -> Vec<u8> {
    assert!(is_float(to) && is_float(from), "{from} as {to}");
    let mut values = vec![0.0; count];
    dequantize_row(from, bytes, &mut values);
    match to {
        WeightFormat::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        WeightFormat::BF16 => {
            values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
        }
        _ => values.iter().flat_map(|&x| x.to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_rounded_to_nearest_even() {
        let bytes: Vec<u8> =
            [1.0_f32, 1.000_01, -3.5, 0.1].iter().flat_map(|x| x.to_le_bytes()).collect();
        for format in [WeightFormat::F16, WeightFormat::BF16] {
            let narrow = encode_floats(format, WeightFormat::F32, &bytes, 4);
            let wide = encode_floats(WeightFormat::F32, format, &narrow, 4);
            let values: Vec<f32> =
                wide.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            assert_eq!(values[..3], [1.0, 1.0, -3.5]);
            assert!((values[3] - 0.1).abs() < 4e-4, "{format}: {}", values[3]);
        }
        assert!(!is_float(WeightFormat::Q8_0));
    }
}
