//! The tensor types of ggml by number: how many elements and bytes a block of each has.

/// How elements of one type lie in memory: blocks of `block_elements`, each `block_bytes` long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeLayout {
    pub id: u32,
    pub name: &'static str,
    pub block_elements: u64,
    pub block_bytes: u64,
}

/// The layout of ggml type `id`; the error says what to do with a file that uses a type without one.
pub fn type_layout(id: u32) -> Result<TypeLayout, String> {
    if let Some(layout) = LAYOUTS.iter().find(|layout| layout.id == id) {
        return Ok(*layout);
    }
    Err(match id {
        4 | 5 | 31..=33 | 36..=38 => {
            format!("ggml type {id} was removed from the format; re-quantise the model")
        }
        _ => format!("ggml type {id} is unknown; re-quantise the model to a type that is known"),
    })
}

/// The bytes of a tensor of `dims` (ggml order: `dims[0]` is contiguous) in ggml type `id`.
pub fn tensor_num_bytes(dims: &[u64], id: u32) -> Result<u64, String> {
    let layout = type_layout(id)?;
    if let Some(axis) = dims.iter().position(|&dim| dim == 0) {
        return Err(format!("dimension {axis} of {dims:?} is zero"));
    }
    let row = dims.first().copied().unwrap_or(1);
    if row % layout.block_elements != 0 {
        let TypeLayout { name, block_elements, .. } = layout;
        return Err(format!(
            "a row of {row} elements is not a whole number of {name} blocks of {block_elements}"
        ));
    }
    dims.iter()
        .try_fold(1u64, |product, &dim| product.checked_mul(dim))
        .and_then(|elements| (elements / layout.block_elements).checked_mul(layout.block_bytes))
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .ok_or_else(|| format!("the size of dimensions {dims:?} overflows"))
}

const fn layout(id: u32, name: &'static str, block_elements: u64, block_bytes: u64) -> TypeLayout {
    TypeLayout { id, name, block_elements, block_bytes }
}

const LAYOUTS: [TypeLayout; 35] = [
    layout(0, "F32", 1, 4),
    layout(1, "F16", 1, 2),
    layout(2, "Q4_0", 32, 18),
    layout(3, "Q4_1", 32, 20),
    layout(6, "Q5_0", 32, 22),
    layout(7, "Q5_1", 32, 24),
    layout(8, "Q8_0", 32, 34),
    layout(9, "Q8_1", 32, 36),
    layout(10, "Q2_K", 256, 84),
    layout(11, "Q3_K", 256, 110),
    layout(12, "Q4_K", 256, 144),
    layout(13, "Q5_K", 256, 176),
    layout(14, "Q6_K", 256, 210),
    layout(15, "Q8_K", 256, 292),
    layout(16, "IQ2_XXS", 256, 66),
    layout(17, "IQ2_XS", 256, 74),
    layout(18, "IQ3_XXS", 256, 98),
    layout(19, "IQ1_S", 256, 50),
    layout(20, "IQ4_NL", 32, 18),
    layout(21, "IQ3_S", 256, 110),
    layout(22, "IQ2_S", 256, 82),
    layout(23, "IQ4_XS", 256, 136),
    layout(24, "I8", 1, 1),
    layout(25, "I16", 1, 2),
    layout(26, "I32", 1, 4),
    layout(27, "I64", 1, 8),
    layout(28, "F64", 1, 8),
    layout(29, "IQ1_M", 256, 56),
    layout(30, "BF16", 1, 2),
    layout(34, "TQ1_0", 256, 54),
    layout(35, "TQ2_0", 256, 66),
    layout(39, "MXFP4", 32, 17),
    layout(40, "NVFP4", 64, 36),
    layout(41, "Q1_0", 128, 18),
    layout(42, "Q2_0", 64, 18),
];
