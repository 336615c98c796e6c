//! safetensors files: mapped and checked, never copied.

mod dtype;
mod header;

use std::path::{Path, PathBuf};
use std::{fs, io};

use quire_kernels::{FileBytes, MappedFile};

use super::bytes::Bytes;

pub use dtype::{dtype_bits, weight_format};
pub use header::{MAX_DIMS, MAX_HEADER_BYTES, MAX_TENSOR_NAME_BYTES, MAX_TENSORS};

/// One file whose header was checked against its real length.
pub struct SafetensorsFile {
    path: PathBuf,
    /// Sorted by name.
    tensors: Vec<TensorInfo>,
    bytes: Bytes,
}

/// One tensor of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub name: String,
    /// As the file spells it; see [`dtype_bits`].
    pub dtype: String,
    /// Row-major: the last dimension is contiguous (the input features of a linear weight).
    pub shape: Vec<u64>,
    /// Where the data starts, from the start of the file; of no alignment.
    pub offset: u64,
    pub num_bytes: u64,
}

impl TensorInfo {
    pub fn num_elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// A safetensors file that cannot be used. The message names the file and the tensor at fault.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct SafetensorsError {
    pub path: PathBuf,
    pub problem: String,
}

impl SafetensorsFile {
    pub fn open(path: &Path) -> Result<Self, SafetensorsError> {
        let error = |problem: String| SafetensorsError { path: path.to_owned(), problem };
        let io = |source: io::Error| error(format!("cannot be read: {source}"));
        // Before it is opened: the opening of a pipe waits for its other end.
        let found = fs::metadata(path).map_err(io)?;
        if !found.is_file() {
            return Err(error("is not a regular file".to_owned()));
        }
        if found.len() == 0 {
            return Err(error("is empty".to_owned()));
        }
        Self::assemble(path, Bytes::Mapped(MappedFile::open(path).map_err(io)?))
    }

    /// A file held in memory; `path` only names it in errors.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, SafetensorsError> {
        Self::assemble(path, Bytes::Owned(bytes))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length of the file.
    pub fn num_bytes(&self) -> u64 {
        self.bytes.get().len() as u64
    }

    /// All tensors, in the order of their names.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let found = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name));
        found.ok().map(|index| &self.tensors[index])
    }

    /// The data of a tensor of this file.
    ///
    /// # Panics
    /// If `tensor` is not one that this file gave out.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> &[u8] {
        self.file_bytes(tensor).get()
    }

    /// As `tensor_bytes`, for who copies them and then gives their pages back.
    pub(in crate::weights) fn file_bytes(&self, tensor: &TensorInfo) -> FileBytes<'_> {
        let start = tensor.offset as usize;
        start
            .checked_add(tensor.num_bytes as usize)
            .and_then(|end| self.bytes.get().slice(start..end))
            .expect("tensor infos come from this file, whose ranges were checked")
    }

    fn assemble(path: &Path, bytes: Bytes) -> Result<Self, SafetensorsError> {
        let tensors = header::parse(&bytes.get())
            .map_err(|problem| SafetensorsError { path: path.to_owned(), problem })?;
        Ok(Self { path: path.to_owned(), tensors, bytes })
    }
}

impl std::fmt::Debug for SafetensorsFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SafetensorsFile")
            .field("path", &self.path)
            .field("num_tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}
