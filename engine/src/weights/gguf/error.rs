//! What can be wrong with a GGUF file, always with the file's name and the key or tensor at fault.

use std::path::{Path, PathBuf};

use crate::weights::quoted;

/// A GGUF file that cannot be used. The message names the file and the key or tensor.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct GgufError {
    pub path: PathBuf,
    pub problem: GgufProblem,
}

#[derive(Debug, thiserror::Error)]
pub enum GgufProblem {
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// The bytes do not form a GGUF file.
    #[error("{0}")]
    Format(String),
    #[error("key {}: {text}", quoted(key))]
    Key { key: String, text: String },
    #[error("tensor {}: {text}", quoted(tensor))]
    Tensor { tensor: String, text: String },
    /// The file is one of several, and they do not fit together.
    #[error("{0}")]
    Split(String),
}

impl GgufProblem {
    pub(super) fn at(self, path: &Path) -> GgufError {
        GgufError { path: path.to_owned(), problem: self }
    }

    pub(super) fn key(key: &str, text: impl Into<String>) -> Self {
        Self::Key { key: key.to_owned(), text: text.into() }
    }

    pub(super) fn tensor(tensor: &str, text: impl Into<String>) -> Self {
        Self::Tensor { tensor: tensor.to_owned(), text: text.into() }
    }
}
