//! Models without a checkpoint: random weights of the shapes that a config.json leads to, for measurements.
//!
//! A matrix has few distinct rows, which the device repeats: a model of 16 GB is there in a second. Numbers depend on the
//! tensor's name alone. Products keep the size of what they multiply, so every logit is finite.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use anyhow::{Context, bail};
use parking_lot::Mutex;
use quire_kernels::cases::random_f32;
use quire_kernels::linear::cases::random_weight_bytes;
use quire_kernels::{DType, Device, LinearWeight, Tensor, WeightFormat};

use super::directory::ModelDirectory;
use super::loader::WeightLoader;
use super::model_files::TensorSummary;
use crate::models::{Decoder, DecoderSpec, ModelSpec, spec_of_directory};

/// Distinct rows of a matrix; more where equal rows would be equal logits.
const DISTINCT_ROWS: usize = 64;
const DISTINCT_TOKENS: usize = 4096;

/// The shape of a model without its weights.
pub struct DummyModel {
    directory: ModelDirectory,
    format: WeightFormat,
    tensors: Vec<DummyTensor>,
}

/// A tensor that the model will ask for.
pub struct DummyTensor {
    name: String,
    rows: usize,
    cols: usize,
    is_weight: bool,
}

/// What a loader has instead of a checkpoint.
#[derive(Clone, Copy)]
pub enum Absent<'a> {
    /// Shapes without memory.
    Shapes,
    /// As `Shapes`; what is asked for is written down.
    Listed(&'a Mutex<Vec<DummyTensor>>),
    /// Random weights of this format, of BF16 where rows are not whole blocks of it.
    Dummy(WeightFormat),
}

impl DummyModel {
    /// `path` is a config.json, or a directory with one; weights beside it are not looked at.
    pub fn open(path: &Path, format: WeightFormat) -> anyhow::Result<Self> {
        let directory = ModelDirectory::without_weights(path)?;
        let ModelSpec::Decoder(spec) = spec_of_directory(&directory)? else {
            bail!("{}: dummy weights are made of decoders alone", path.display());
        };
        let tensors = tensors_of(spec).with_context(|| path.display().to_string())?;
        Ok(Self { directory, format, tensors })
    }

    pub fn directory(&self) -> &ModelDirectory {
        &self.directory
    }

    pub fn format(&self) -> WeightFormat {
        self.format
    }

    pub(super) fn summaries(&self) -> impl Iterator<Item = TensorSummary<'_>> {
        self.tensors.iter().map(|tensor| {
            let format = match tensor.is_weight {
                true => fitting(self.format, tensor.cols),
                false => WeightFormat::F32,
            };
            let row_bytes = format.row_bytes(tensor.cols).unwrap_or(0);
            TensorSummary {
                name: &tensor.name,
                type_name: format.name(),
                format: Some(format),
                packed_bytes: None,
                num_elements: tensor.rows as u64 * tensor.cols as u64,
                num_bytes: tensor.rows as u64 * row_bytes as u64,
                is_matrix: tensor.is_weight,
                num_matrices: 1,
                in_features: tensor.cols as u64,
            }
        })
    }
}

/// Everything that the decoder asks a loader for.
fn tensors_of(spec: DecoderSpec) -> anyhow::Result<Vec<DummyTensor>> {
    let (device, _log) = Device::trace();
    let list = Mutex::default();
    let loader = WeightLoader::shape_only(&device).with_absent(Absent::Listed(&list));
    Decoder::load(spec, &loader, 1)?;
    Ok(list.into_inner())
}

fn fitting(format: WeightFormat, in_features: usize) -> WeightFormat {
    match format.row_bytes(in_features) {
        Some(bytes) if bytes > 0 => format,
        _ => WeightFormat::BF16,
    }
}

impl WeightLoader<'_> {
    /// A matrix that no checkpoint has.
    pub(super) fn absent_linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
    ) -> anyhow::Result<LinearWeight> {
        self.list(name, (out_features, in_features), true);
        let Absent::Dummy(format) = self.absent() else {
            return Ok(LinearWeight::shape_only(out_features, in_features));
        };
        let format = fitting(format, in_features);
        let distinct = match name {
            "token_embd.weight" | "output.weight" => DISTINCT_TOKENS,
            _ => DISTINCT_ROWS,
        };
        let (rows, seed) = (distinct.min(out_features), self.seed(name));
        // The variance that makes a product as large as what it multiplies.
        let largest = (3.0 / in_features as f32).sqrt();
        let numbers = || random_f32(seed, rows * in_features).into_iter().map(|v| v * largest);
        let bytes: Vec<u8> = match format {
            WeightFormat::F32 => numbers().flat_map(f32::to_le_bytes).collect(),
            WeightFormat::F16 => {
                numbers().flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect()
            }
            WeightFormat::BF16 => {
                numbers().flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect()
            }
            quantized => random_weight_bytes(quantized, rows, in_features, seed),
        };
        let (device, shape) = (self.device(), (out_features, in_features));
        let weight = LinearWeight::repeating(device, format, &bytes, shape, self.policy())?;
        let weight = weight.with_activations(self.activations_of(name));
        let is_scaled =
            matches!(format, WeightFormat::F32 | WeightFormat::F16 | WeightFormat::BF16);
        Ok(if is_scaled { weight } else { weight.with_factor(largest) })
    }

    /// Numbers that no checkpoint has, after `change`: weights of norms, biases and their like.
    pub(super) fn absent_tensor(
        &self,
        name: &str,
        dtype: DType,
        (rows, cols): (usize, usize),
        change: impl Fn(f32) -> f32,
    ) -> anyhow::Result<Tensor> {
        self.list(name, (rows, cols), false);
        if !matches!(self.absent(), Absent::Dummy(_)) {
            return Ok(Tensor::shape_only(dtype, rows, cols));
        }
        let values: Vec<f32> = self.numbers(name, rows * cols).map(change).collect();
        Ok(self.device().tensor(dtype, &values, rows, cols)?)
    }

    /// As `absent_tensor`, where the loader goes on with the numbers; of shapes only, none.
    pub(super) fn absent_numbers(&self, name: &str, rows: usize, cols: usize) -> Vec<f32> {
        self.list(name, (rows, cols), false);
        match self.absent() {
            Absent::Dummy(_) => self.numbers(name, rows * cols).collect(),
            Absent::Shapes | Absent::Listed(_) => Vec::new(),
        }
    }

    /// Norms keep what they scale, states decay, and what is added is small.
    fn numbers(&self, name: &str, len: usize) -> impl Iterator<Item = f32> {
        let (middle, width) = match name {
            _ if name.contains("norm") || name.ends_with("scale") => (1.0, 0.1),
            "ssm_a" => (-0.5, 0.1),
            _ => (0.0, 0.1),
        };
        random_f32(self.seed(name), len).into_iter().map(move |v| middle + width * v)
    }

    /// Of the tensor's full name: the same in every process.
    fn seed(&self, name: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.full_name(name).hash(&mut hasher);
        hasher.finish()
    }

    fn list(&self, name: &str, (rows, cols): (usize, usize), is_weight: bool) {
        if let Absent::Listed(list) = self.absent() {
            list.lock().push(DummyTensor { name: self.full_name(name), rows, cols, is_weight });
        }
    }
}
