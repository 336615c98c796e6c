//! The method by which a directory's weights are quantized, as its configuration has it.

use anyhow::{bail, ensure};

use crate::weights::directory::ConfigSection;

/// What the configuration says beyond the tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    pub kind: MethodKind,
    /// Bits of a number in words.
    pub bits: usize,
    /// Sizes of groups along a row; whole rows are not among them.
    pub group_sizes: Vec<usize>,
    /// Features and weights along a row that share a scale.
    pub block: Option<(usize, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodKind {
    /// What tensors are called says all.
    ByName,
    /// `zero_plus` is added to stored zero points.
    Gptq {
        zero_plus: u8,
    },
    Awq,
}

/// Methods that are read.
const SUPPORTED: &str =
    "fp8, fbgemm_fp8, compressed-tensors, modelopt, mxfp4, gptq, awq, auto-round";

/// Formats of compressed-tensors that are read.
const COMPRESSED_FORMATS: [&str; 10] = [
    "dense",
    "float-quantized",
    "int-quantized",
    "naive-quantized",
    "pack-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "mxfp8-quantized",
    "mxfp8-pack-quantized",
    "mixed-precision",
];

impl Method {
    /// From a `quantization_config`.
    pub(in crate::weights) fn read(section: &ConfigSection) -> anyhow::Result<Self> {
        let name = section.string("quant_method")?;
        let Some(name) = name.or(section.string("quant_algo")?.map(|_| "modelopt")) else {
            bail!("{} is missing; supported: {SUPPORTED}", section.name_of("quant_method"));
        };
        let mut method = Self {
            kind: MethodKind::ByName,
            bits: section.optional_dimension("bits")?.unwrap_or(4),
            group_sizes: Vec::new(),
            block: None,
        };
        method.group_sizes.extend(section.group_size("group_size")?);
        match name {
            "fp8" | "fbgemm_fp8" => method.block = section.pair("weight_block_size")?,
            "compressed-tensors" => method.read_compressed(section)?,
            "modelopt" | "modelopt_fp4" | "mxfp4" => {}
            "gptq" => {
                let format = section.string("checkpoint_format")?.unwrap_or("gptq");
                let zero_plus = match format {
                    "gptq" => 1,
                    "gptq_v2" => 0,
                    other => bail!(
                        "{} is \"{other}\"; supported: gptq, gptq_v2",
                        section.name_of("checkpoint_format")
                    ),
                };
                method.kind = MethodKind::Gptq { zero_plus };
            }
            "awq" => {
                let version = section.string("version")?.unwrap_or("gemm");
                ensure!(
                    version.eq_ignore_ascii_case("gemm"),
                    "{} is \"{version}\"; supported: gemm",
                    section.name_of("version")
                );
                method.kind = MethodKind::Awq;
            }
            "auto-round" | "auto_round" | "intel/auto-round" => {
                let key = "packing_format";
                method.kind = match section.string(key)?.unwrap_or("auto_round:auto_gptq") {
                    "auto_round:auto_gptq" => MethodKind::Gptq { zero_plus: 1 },
                    "auto_round" | "auto_round:gptqmodel" => MethodKind::Gptq { zero_plus: 0 },
                    "auto_round:auto_awq" => MethodKind::Awq,
                    "auto_round:llm_compressor" | "auto_round:fp8_static" => MethodKind::ByName,
                    other => bail!(
                        "{} is \"{other}\"; supported: auto_round:auto_gptq, auto_round:gptqmodel, \
                         auto_round:auto_awq, auto_round:llm_compressor",
                        section.name_of(key)
                    ),
                };
            }
            other => bail!(
                "{} is \"{other}\", which is not supported; supported: {SUPPORTED}",
                section.name_of("quant_method")
            ),
        }
        Ok(method)
    }

    fn read_compressed(&mut self, section: &ConfigSection) -> anyhow::Result<()> {
        let known = |section: &ConfigSection| -> anyhow::Result<()> {
            let format = section.string("format")?.unwrap_or("dense");
            ensure!(
                COMPRESSED_FORMATS.contains(&format),
                "{} is \"{format}\"; supported: {}",
                section.name_of("format"),
                COMPRESSED_FORMATS.join(", ")
            );
            Ok(())
        };
        known(section)?;
        for key in ["sparsity_config", "transform_config"] {
            let Some(other) = section.section(key)? else { continue };
            let is_empty = other.is_empty() || other.string("format")? == Some("dense");
            ensure!(is_empty, "{} is not supported", section.name_of(key));
        }
        let Some(groups) = section.section("config_groups")? else { return Ok(()) };
        for group in groups.sections() {
            known(&group)?;
            let Some(weights) = group.section("weights")? else { continue };
            self.bits = weights.optional_dimension("num_bits")?.unwrap_or(self.bits);
            self.group_sizes.extend(weights.group_size("group_size")?);
            self.block = weights.pair("block_structure")?.or(self.block);
        }
        Ok(())
    }

    /// Features and weights that share one of `scales` (rows, columns) of a weight of `shape`; `None` when none fit.
    pub(super) fn block_size(
        &self,
        shape: (usize, usize),
        scales: (usize, usize),
    ) -> Option<(usize, usize)> {
        let fits = |(rows, columns): (usize, usize)| {
            (shape.0.div_ceil(rows), shape.1.div_ceil(columns)) == scales
        };
        let of_groups = self.group_sizes.iter().map(|&columns| (1, columns));
        let named = self.block.into_iter().chain(of_groups).find(|&block| fits(block));
        named.or_else(|| {
            let is_whole = scales.0 == shape.0 && scales.1 > 0 && shape.1.is_multiple_of(scales.1);
            is_whole.then(|| (1, shape.1 / scales.1))
        })
    }
}
