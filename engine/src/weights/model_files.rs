//! A model as it lies on disk, whatever its format.

use std::path::Path;

use quire_kernels::{FileBytes, GroupedWeight, WeightFormat};

use super::directory::ModelDirectory;
use super::gguf::{GgufFile, type_layout};
use super::safetensors::weight_format;
use super::{DummyModel, HostTensor, WeightSource};
use crate::model_path::resolve_model_path;

/// An opened model: a GGUF file with all its splits, or a directory with config.json and safetensors.
pub enum ModelFiles {
    Gguf(GgufFile),
    Directory(ModelDirectory),
    /// A config.json alone, with random weights.
    Dummy(DummyModel),
}

/// What a model's files tell of one of its tensors.
#[derive(Clone, Debug)]
pub struct TensorSummary<'a> {
    /// As the loader asks for it.
    pub name: &'a str,
    /// The element type as the files name it.
    pub type_name: &'a str,
    /// `None`: the kernels cannot read it, or it is quantized in groups.
    pub format: Option<WeightFormat>,
    /// Of a weight that is quantized in groups, what it takes when it is packed.
    pub packed_bytes: Option<u64>,
    pub num_elements: u64,
    pub num_bytes: u64,
    /// Two dimensions or more.
    pub is_matrix: bool,
    /// 1, or of three dimensions the matrices that lie end to end, each packed by itself.
    pub num_matrices: u64,
    /// Elements of a row.
    pub in_features: u64,
}

impl ModelFiles {
    /// Opens what `path` is or holds; see [`resolve_model_path`].
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let path = resolve_model_path(path)?;
        Ok(match path.is_dir() {
            true => Self::Directory(ModelDirectory::open(&path)?),
            false => Self::Gguf(GgufFile::open(&path)?),
        })
    }

    /// Random weights of `format` for the config.json that `path` is or has.
    pub fn dummy(path: &Path, format: WeightFormat) -> anyhow::Result<Self> {
        DummyModel::open(path, format).map(Self::Dummy)
    }

    /// The file opened (of splits the first), or the directory.
    pub fn path(&self) -> &Path {
        match self {
            Self::Gguf(file) => file.path(),
            Self::Directory(directory) => directory.path(),
            Self::Dummy(dummy) => dummy.directory().path(),
        }
    }

    /// The length of all files with weights.
    pub fn num_bytes(&self) -> u64 {
        match self {
            Self::Gguf(file) => file.num_bytes(),
            Self::Directory(directory) => directory.num_bytes(),
            Self::Dummy(_) => 0,
        }
    }

    /// As the files name it; it need not be a supported one.
    pub fn architecture(&self) -> Option<&str> {
        match self {
            Self::Gguf(file) => file.metadata().string("general.architecture").ok().flatten(),
            Self::Directory(directory) => model_type(directory),
            Self::Dummy(dummy) => model_type(dummy.directory()),
        }
    }

    /// After a load: a tensor of a directory that no part of the model asked for.
    pub fn unused_tensor(&self) -> Option<&str> {
        match self {
            Self::Gguf(_) | Self::Dummy(_) => None,
            Self::Directory(directory) => directory.unused_tensor(),
        }
    }

    /// All tensors of the text model.
    pub fn tensors(&self) -> Vec<TensorSummary<'_>> {
        match self {
            Self::Gguf(file) => file.tensors().map(of_gguf).collect(),
            Self::Directory(directory) => {
                let quantized = directory.quantized_names().map(|name| of_parts(directory, name));
                directory.tensors().filter_map(of_safetensors).chain(quantized).collect()
            }
            Self::Dummy(dummy) => dummy.summaries().collect(),
        }
    }
}

impl From<GgufFile> for ModelFiles {
    fn from(file: GgufFile) -> Self {
        Self::Gguf(file)
    }
}

impl WeightSource for ModelFiles {
    fn tensor(&self, name: &str) -> anyhow::Result<Option<HostTensor<'_>>> {
        match self {
            Self::Gguf(file) => WeightSource::tensor(file, name),
            Self::Directory(directory) => directory.tensor(name),
            Self::Dummy(_) => Ok(None),
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Gguf(file) => WeightSource::has(file, name),
            Self::Directory(directory) => directory.has(name),
            Self::Dummy(_) => false,
        }
    }

    fn leave_out(&self, name: &str) {
        if let Self::Directory(directory) = self {
            directory.leave_out(name);
        }
    }

    fn blocks(&self, name: &str) -> Option<(&[u64], FileBytes<'_>)> {
        match self {
            Self::Gguf(file) => file.blocks(name),
            Self::Directory(directory) => directory.blocks(name),
            Self::Dummy(_) => None,
        }
    }

    fn quantized(&self, name: &str) -> anyhow::Result<Option<GroupedWeight<'_>>> {
        match self {
            Self::Gguf(_) | Self::Dummy(_) => Ok(None),
            Self::Directory(directory) => directory.quantized(name),
        }
    }

    fn offset(&self, name: &str) -> f32 {
        match self {
            Self::Gguf(_) | Self::Dummy(_) => 0.0,
            Self::Directory(directory) => directory.offset(name),
        }
    }

    fn name_in_file(&self, name: &str) -> String {
        match self {
            Self::Gguf(file) => file.name_in_file(name),
            Self::Directory(directory) => directory.name_in_file(name),
            Self::Dummy(_) => name.to_owned(),
        }
    }
}

fn model_type(directory: &ModelDirectory) -> Option<&str> {
    directory.config().text().string("model_type").ok().flatten()
}

fn of_gguf(tensor: &super::gguf::TensorInfo) -> TensorSummary<'_> {
    TensorSummary {
        name: &tensor.name,
        type_name: type_layout(tensor.ggml_type).map_or("unknown", |layout| layout.name),
        format: WeightFormat::from_ggml_id(tensor.ggml_type),
        packed_bytes: None,
        num_elements: tensor.num_elements(),
        num_bytes: tensor.num_bytes,
        is_matrix: tensor.dims.len() > 1,
        num_matrices: tensor.dims.get(2).copied().unwrap_or(1),
        in_features: tensor.dims.first().copied().unwrap_or(1),
    }
}

/// `None`: it is counted with another one.
fn of_safetensors<'a>(
    (name, tensor): (&'a str, &'a super::safetensors::TensorInfo),
) -> Option<TensorSummary<'a>> {
    let num_matrices = if tensor.shape.len() > 2 { tensor.shape[0] } else { 1 };
    if name.ends_with(".scales") {
        return None;
    }
    if name.ends_with(".blocks") {
        let in_features = 32 * tensor.shape.get(2).copied().unwrap_or(1);
        return Some(TensorSummary {
            name,
            type_name: "MXFP4",
            format: Some(WeightFormat::Mxfp4),
            packed_bytes: None,
            num_elements: tensor.num_elements().saturating_mul(2),
            num_bytes: tensor.num_bytes / 16 * 17,
            is_matrix: true,
            num_matrices,
            in_features,
        });
    }
    Some(TensorSummary {
        name,
        type_name: &tensor.dtype,
        format: weight_format(&tensor.dtype),
        packed_bytes: None,
        num_elements: tensor.num_elements(),
        num_bytes: tensor.num_bytes,
        is_matrix: tensor.shape.len() > 1,
        num_matrices,
        in_features: tensor.shape.last().copied().unwrap_or(1),
    })
}

/// A quantized weight; one that cannot be used has no elements here, and an error when it is loaded.
fn of_parts<'a>(directory: &'a ModelDirectory, name: &'a str) -> TensorSummary<'a> {
    let weight = directory.grouped(name).ok().flatten();
    let shape = weight.as_ref().map_or((0, 0), |weight| (weight.out_features, weight.in_features));
    let packed_bytes = weight.as_ref().and_then(GroupedWeight::packed_bytes);
    TensorSummary {
        name,
        type_name: "quantized",
        format: None,
        packed_bytes: Some(packed_bytes.unwrap_or_default() as u64),
        num_elements: shape.0 as u64 * shape.1 as u64,
        num_bytes: directory.pieces(name).map_or(0, |pieces| pieces.num_bytes()),
        is_matrix: true,
        num_matrices: 1,
        in_features: shape.1 as u64,
    }
}
