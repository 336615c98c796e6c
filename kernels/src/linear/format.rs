//! WeightFormat: the closed list of the ways in which weights lie in memory, and their dequantization.

use super::device_layout::{DeviceLayout, TILE};
use super::packed::{BlockScales, HALVES, Packing, pack_blocks, packed_bytes, takes_halves};
use super::weight::WeightPolicy;
use super::{
    bfloat16, float16, float32, iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl,
    iq4_xs, mxfp4, nvfp4, q1_0, q2_0, q2_k, q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0,
    tq1_0, tq2_0,
};
use crate::cpu::SimdLevel;

/// Makes the enum and every `match` on it from one line a format: variant, module, name, number in GGUF files. Formats
/// that are packed say how; the others are floats.
macro_rules! weight_formats {
    (floats { $($float:ident $float_module:ident $float_name:literal $float_id:literal;)* }
     packed { $($packed:ident $packed_module:ident $packed_name:literal $packed_id:literal;)* }) => {
        weight_formats! { all
            $($float $float_module $float_name $float_id;)*
            $($packed $packed_module $packed_name $packed_id;)*
        }

        impl WeightFormat {
            /// `None`: numbers that are not quantized.
            pub(super) const fn packing(self) -> Option<Packing> {
                match self {
                    $(Self::$packed => Some($packed_module::PACKING),)*
                    $(Self::$float => None,)*
                }
            }

            /// Codes and scales of one block; `codes` has `block_elements`.
            pub(super) fn split(self, block: &[u8], codes: &mut [u8]) -> BlockScales {
                let mut scales = BlockScales::default();
                match self {
                    $(Self::$packed => {
                        let block = block.first_chunk().expect("a block");
                        let codes = codes.first_chunk_mut().expect("a block of codes");
                        $packed_module::split(block, codes, &mut scales);
                    })*
                    $(Self::$float => unreachable!("{self} is not quantized"),)*
                }
                scales
            }

            /// Fills a tile (scales, codes) with some rows of `row_bytes`, from that pair of their first block on.
            pub(super) fn pack_tile(
                self,
                rows: &[u8],
                row_bytes: usize,
                first_pair: usize,
                tile: (&mut [u8], &mut [u8]),
            ) {
                match self {
                    $(Self::$packed => {
                        use $packed_module::{PACKING, split};
                        pack_blocks(PACKING, split, (rows, row_bytes), first_pair, tile);
                    })*
                    $(Self::$float => unreachable!("{self} is not quantized"),)*
                }
            }
        }
    };
    (all $($variant:ident $module:ident $name:literal $ggml_id:literal;)*) => {
        /// How the weights of a matrix row lie in memory, as GGUF defines it: blocks of a fixed number of elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum WeightFormat {
            $($variant,)*
        }

        impl WeightFormat {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name that GGUF tools print.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Weights of one block.
            #[inline]
            pub const fn block_elements(self) -> usize {
                match self { $(Self::$variant => $module::ELEMENTS,)* }
            }

            /// Bytes of one block.
            #[inline]
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$variant => $module::BYTES,)* }
            }

            /// The format with this number in GGUF tensor infos; `None` when Quire cannot read it.
            pub const fn from_ggml_id(id: u32) -> Option<Self> {
                match id { $($ggml_id => Some(Self::$variant),)* _ => None }
            }
        }

        #[inline(always)]
        fn dequantize_blocks(simd: SimdLevel, format: WeightFormat, bytes: &[u8], out: &mut [f32]) {
            match format {
                // Called by name: through a function value the block functions would not be inlined.
                $(WeightFormat::$variant => {
                    let blocks = bytes.as_chunks::<{ $module::BYTES }>().0;
                    let outs = out.as_chunks_mut::<{ $module::ELEMENTS }>().0;
                    for (block, out) in blocks.iter().zip(outs) {
                        $module::dequantize_block(simd, block, out);
                    }
                })*
            }
        }
    };
}

weight_formats! {
    floats {
    F32 float32 "F32" 0;
    F16 float16 "F16" 1;
    BF16 bfloat16 "BF16" 30;
    }
    packed {
    Q4_0 q4_0 "Q4_0" 2;
    Q4_1 q4_1 "Q4_1" 3;
    Q5_0 q5_0 "Q5_0" 6;
    Q5_1 q5_1 "Q5_1" 7;
    Q8_0 q8_0 "Q8_0" 8;
    Q2K q2_k "Q2_K" 10;
    Q3K q3_k "Q3_K" 11;
    Q4K q4_k "Q4_K" 12;
    Q5K q5_k "Q5_K" 13;
    Q6K q6_k "Q6_K" 14;
    Iq2Xxs iq2_xxs "IQ2_XXS" 16;
    Iq2Xs iq2_xs "IQ2_XS" 17;
    Iq3Xxs iq3_xxs "IQ3_XXS" 18;
    Iq1S iq1_s "IQ1_S" 19;
    Iq4Nl iq4_nl "IQ4_NL" 20;
    Iq3S iq3_s "IQ3_S" 21;
    Iq2S iq2_s "IQ2_S" 22;
    Iq4Xs iq4_xs "IQ4_XS" 23;
    Iq1M iq1_m "IQ1_M" 29;
    Tq1_0 tq1_0 "TQ1_0" 34;
    Tq2_0 tq2_0 "TQ2_0" 35;
    Mxfp4 mxfp4 "MXFP4" 39;
    Nvfp4 nvfp4 "NVFP4" 40;
    Q1_0 q1_0 "Q1_0" 41;
    Q2_0 q2_0 "Q2_0" 42;
    }
}

impl WeightFormat {
    /// Bytes of a row of `k` weights; `None` when `k` is not a whole number of blocks (or overflows).
    #[inline]
    pub const fn row_bytes(self, k: usize) -> Option<usize> {
        // Blocks have a power of two of elements: this runs for every row that is dequantized, and a division is slow.
        let shift = self.block_elements().trailing_zeros();
        if k & (self.block_elements() - 1) == 0 {
            (k >> shift).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// Bytes that a matrix takes, at most, when it is packed; `None` when rows are not whole blocks or it overflows.
    pub fn packed_bytes(self, out_features: usize, in_features: usize) -> Option<usize> {
        let row_bytes = self.row_bytes(in_features)?;
        match self.packing() {
            Some(packing) => packed_bytes(packing, out_features, in_features),
            None if takes_halves(self) => packed_bytes(HALVES, out_features, in_features),
            None => row_bytes.checked_mul(out_features),
        }
    }
}

impl WeightFormat {
    /// Bytes that a matrix takes on a GPU: of formats that have kernels as `device_layout.rs` lays them out, else BF16.
    pub fn cuda_bytes(
        self,
        out_features: usize,
        in_features: usize,
        policy: WeightPolicy,
    ) -> usize {
        match DeviceLayout::of(self).filter(|_| policy != WeightPolicy::Float32) {
            Some(layout) => {
                let (codes, scales) = layout.tile_bytes(in_features);
                out_features.div_ceil(TILE).saturating_mul(codes + scales)
            }
            None => out_features.saturating_mul(in_features).saturating_mul(2),
        }
    }
}

impl std::fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Dequantizes whole blocks: `bytes` holds `out.len()` weights. Exact, the same bits on every machine.
pub fn dequantize_row(format: WeightFormat, bytes: &[u8], out: &mut [f32]) {
    dequantize_with(SimdLevel::detect(), format, bytes, out);
}

/// As `dequantize_row`, with the instruction set given; the machine must have it.
#[inline]
pub(crate) fn dequantize_with(
    simd: SimdLevel,
    format: WeightFormat,
    bytes: &[u8],
    out: &mut [f32],
) {
    assert_eq!(format.row_bytes(out.len()), Some(bytes.len()), "{format}: {} weights", out.len());
    match simd {
        SimdLevel::Portable => dequantize_blocks(simd, format, bytes, out),
        // SAFETY: a SimdLevel beyond Portable exists only where the machine has it.
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx2 | SimdLevel::AvxVnni => unsafe { dequantize_avx2(format, bytes, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 | SimdLevel::Avx512Bf16 => unsafe {
            dequantize_avx512(format, bytes, out);
        },
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("an x86 instruction set"),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn dequantize_avx2(format: WeightFormat, bytes: &[u8], out: &mut [f32]) {
    dequantize_blocks(SimdLevel::Avx2, format, bytes, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn dequantize_avx512(format: WeightFormat, bytes: &[u8], out: &mut [f32]) {
    dequantize_blocks(SimdLevel::Avx512, format, bytes, out);
}
