//! The element types of safetensors by name.

use quire_kernels::WeightFormat;

/// Bits of one element; `None` for a type that is not known.
pub fn dtype_bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ"
        | "F8_E5M2FNUZ" => 8,
        "U16" | "I16" | "F16" | "BF16" => 16,
        "U32" | "I32" | "F32" => 32,
        "U64" | "I64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// How the kernels read elements of `dtype` as they lie in the file.
pub fn weight_format(dtype: &str) -> Option<WeightFormat> {
    match dtype {
        "BF16" => Some(WeightFormat::BF16),
        "F16" => Some(WeightFormat::F16),
        "F32" => Some(WeightFormat::F32),
        _ => None,
    }
}
