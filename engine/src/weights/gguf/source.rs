//! GGUF as a `WeightSource`: element types the kernels know, dims in the order of the kernels.

use anyhow::{Context, bail};
use quire_kernels::WeightFormat;

use super::{GgufFile, type_layout};
use crate::weights::{HostTensor, WeightSource};

impl WeightSource for GgufFile {
    fn tensor(&self, name: &str) -> anyhow::Result<Option<HostTensor<'_>>> {
        let Some(info) = GgufFile::tensor(self, name) else { return Ok(None) };
        let format = WeightFormat::from_ggml_id(info.ggml_type).with_context(|| {
            let kind = type_layout(info.ggml_type).map_or("unknown", |layout| layout.name);
            format!("tensor \"{name}\" has element type {kind}, which is not one of weights")
        })?;
        let (in_features, out_features, num_matrices) = match info.dims[..] {
            [len] => (len, 1, 1),
            [in_features, out_features] => (in_features, out_features, 1),
            [in_features, out_features, num_matrices] => (in_features, out_features, num_matrices),
            _ => bail!("tensor \"{name}\" has {} dimensions, not 1 to 3", info.dims.len()),
        };
        let num_matrices = num_matrices as usize;
        let (in_features, out_features) = (in_features as usize, out_features as usize);
        let bytes = self.file_bytes(info);
        Ok(Some(HostTensor { format, num_matrices, out_features, in_features, bytes }))
    }
}
