//! What the weights of a model take in memory, known before they are loaded.

use anyhow::{bail, ensure};
use quire_kernels::{WeightFormat, WeightPolicy};

use crate::config::{Dtype, EngineOptions, Weights};
use crate::gpu::Place;
use crate::plan::human_bytes;
use crate::weights::{ModelFiles, WeightSource, is_float};

/// The layer that a tensor belongs to.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Bytes of all tensors as they will lie in memory.
pub(crate) fn weight_bytes(
    files: &ModelFiles,
    tied_embeddings: bool,
    options: &EngineOptions,
    place: &Place,
) -> anyhow::Result<u64> {
    let (weights, skipped) = (options.weights, &options.skipped_layers);
    let mut total = 0_u64;
    for tensor in files.tensors() {
        if layer_of(tensor.name).is_some_and(|layer| skipped.contains(&layer)) {
            continue;
        }
        // Directories may hold a head that is only the embedding table once more.
        if tied_embeddings && tensor.name == "output.weight" {
            continue;
        }
        if let Some(packed) = tensor.packed_bytes {
            ensure_float(files, options, tensor.name, "quantized")?;
            let bytes = match (place.gpu(), weights) {
                (Some(_), _) => 2 * tensor.num_elements,
                (None, Weights::Float32) => 4 * tensor.num_elements,
                (None, Weights::Packed) if tensor.name.ends_with("attn_kv_b.weight") => {
                    // Transposed, which floats alone can be.
                    2 * tensor.num_elements
                }
                (None, Weights::Packed) => packed,
            };
            total = total.saturating_add(bytes);
            continue;
        }
        let Some(mut format) = tensor.format else {
            bail!(
                "tensor \"{}\" has element type {}, which is not supported",
                files.name_in_file(tensor.name),
                tensor.type_name
            );
        };
        if let Some(wanted) = options.dtype.format().filter(|_| tensor.is_matrix) {
            if is_float(format) {
                format = wanted;
            } else {
                ensure_float(files, options, tensor.name, format.name())?;
            }
        }
        let is_float32 =
            !tensor.is_matrix || format == WeightFormat::F32 || weights == Weights::Float32;
        let (in_features, num_matrices) = (tensor.in_features.max(1), tensor.num_matrices.max(1));
        let out_features = (tensor.num_elements / in_features / num_matrices) as usize;
        let bytes = if place.gpu().is_some() && tensor.is_matrix {
            let policy = match weights {
                Weights::Packed => WeightPolicy::Packed,
                Weights::Float32 => WeightPolicy::Float32,
            };
            let bytes = format.cuda_bytes(out_features, in_features as usize, policy);
            (bytes as u64).saturating_mul(num_matrices)
        } else if is_float32 {
            tensor.num_elements * 4
        } else {
            let packed = format.packed_bytes(out_features, in_features as usize);
            packed.map_or(tensor.num_bytes, |bytes| (bytes as u64).saturating_mul(num_matrices))
        };
        total = total.saturating_add(bytes);
    }
    Ok(total)
}

/// `--dtype` says nothing of weights that are quantized, unless all become float32.
fn ensure_float(
    files: &ModelFiles,
    options: &EngineOptions,
    name: &str,
    format: &str,
) -> anyhow::Result<()> {
    ensure!(
        options.dtype == Dtype::Auto || options.weights == Weights::Float32,
        "--dtype is for weights that are floats in the file, but tensor \"{}\" is {format}: leave --dtype out, \
         or use --weights float32",
        files.name_in_file(name)
    );
    Ok(())
}

/// What would fit in so many bytes, as advice.
pub(crate) fn what_fits(files: &ModelFiles, bytes: u64) -> String {
    let num_weights: u64 = files.tensors().iter().map(|tensor| tensor.num_elements).sum();
    let bits = bytes as f64 * 8.0 / num_weights.max(1) as f64;
    if bytes == 0 {
        return "the workspace alone takes more: use a smaller model".into();
    }
    // Below this no format keeps a model's sense.
    match bits >= 2.0 {
        true => format!(
            "its weights would fit with at most {bits:.1} bits each: use a more quantized file"
        ),
        false => format!("weights of {} would fit: use a smaller model", human_bytes(bytes)),
    }
}
