//! GGUF files: one model in one file or in several splits, mapped and checked, never copied.

mod error;
mod ggml_type;
mod metadata;
mod parse;
mod source;
mod split;
mod value;
mod writer;

use std::path::{Path, PathBuf};

use quire_kernels::FileBytes;

use super::bytes::Bytes;

pub use error::{GgufError, GgufProblem};
pub use ggml_type::{TypeLayout, tensor_num_bytes, type_layout};
pub use metadata::{MAX_PER_LAYER, Metadata};
pub use parse::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAX_ALIGNMENT, MAX_ARRAY_ELEMENTS, MAX_DIMS, MAX_KEY_BYTES,
    MAX_KEYS, MAX_TENSOR_NAME_BYTES, MAX_TENSORS, MAX_TEXT_BYTES, MIN_ALIGNMENT,
};
pub use split::{MAX_SPLITS, SplitName};
pub use value::{StringArray, ValueType};
pub use writer::GgufWriter;

/// One model: one file, or all splits of one. What it tells about itself was checked against the files' real length.
pub struct GgufFile {
    path: PathBuf,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Indices into `tensors`, sorted by name.
    by_name: Vec<u32>,
    splits: Vec<Bytes>,
}

/// One tensor of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// In ggml order, 1 to 4 of them: `dims[0]` is contiguous (the input features of a linear weight).
    pub dims: Vec<u64>,
    /// See [`type_layout`].
    pub ggml_type: u32,
    /// Where the data starts, from the start of its file.
    pub offset: u64,
    pub num_bytes: u64,
    /// Which of the model's files holds the data.
    pub split: usize,
}

impl TensorInfo {
    pub fn num_elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

impl GgufFile {
    /// Opens the model that `path` is, or is any split of.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        split::open(path)
    }

    /// A model held in memory; `path` only names it in errors.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, GgufError> {
        let parsed = parse::parse(&bytes, 0).map_err(|problem| problem.at(path))?;
        let metadata = Metadata { path: path.to_owned(), entries: parsed.entries };
        Self::assemble(path.to_owned(), metadata, parsed.tensors, vec![Bytes::Owned(bytes)])
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let position = self
            .by_name
            .binary_search_by(|&index| self.tensors[index as usize].name.as_str().cmp(name))
            .ok()?;
        Some(&self.tensors[self.by_name[position] as usize])
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// The data of a tensor of this model, as blocks of its type; mapped files are aligned to [`MIN_ALIGNMENT`].
    ///
    /// # Panics
    /// If `tensor` is not one that this model gave out.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> &[u8] {
        self.file_bytes(tensor).get()
    }

    /// As `tensor_bytes`, for who copies them and then gives their pages back.
    pub(in crate::weights) fn file_bytes(&self, tensor: &TensorInfo) -> FileBytes<'_> {
        let start = tensor.offset as usize;
        self.splits
            .get(tensor.split)
            .and_then(|split| {
                split.get().slice(start..start.checked_add(tensor.num_bytes as usize)?)
            })
            .expect("tensor infos come from this model, whose ranges were checked")
    }

    /// The file opened, or its first split.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length of all files.
    pub fn num_bytes(&self) -> u64 {
        self.splits.iter().map(|split| split.get().len() as u64).sum()
    }

    fn assemble(
        path: PathBuf,
        metadata: Metadata,
        tensors: Vec<TensorInfo>,
        splits: Vec<Bytes>,
    ) -> Result<Self, GgufError> {
        let mut by_name: Vec<u32> = (0..tensors.len() as u32).collect();
        by_name.sort_unstable_by_key(|&index| tensors[index as usize].name.as_str());
        for pair in by_name.windows(2) {
            let name = &tensors[pair[0] as usize].name;
            if *name == tensors[pair[1] as usize].name {
                return Err(GgufProblem::tensor(name, "occurs twice").at(&path));
            }
        }
        Ok(Self { path, metadata, tensors, by_name, splits })
    }
}

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let num_tensors = self.tensors.len();
        f.debug_struct("GgufFile")
            .field("path", &self.path)
            .field("num_tensors", &num_tensors)
            .finish_non_exhaustive()
    }
}
