//! The bytes of a model file: mapped, or held in memory.

use quire_kernels::{FileBytes, MappedFile};

pub(super) enum Bytes {
    Mapped(MappedFile),
    Owned(Vec<u8>),
}

impl Bytes {
    pub(super) fn get(&self) -> FileBytes<'_> {
        match self {
            Self::Mapped(file) => file.bytes(),
            Self::Owned(bytes) => bytes.into(),
        }
    }
}
