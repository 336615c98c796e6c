//! A file mapped read-only into memory: how weights are read without a copy.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::UncheckedAdvice;

/// A read-only map of a whole file.
pub struct MappedFile {
    map: memmap2::Mmap,
}

impl MappedFile {
    /// Maps `path`; an empty file is an error of the operating system.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the map is private and read-only. A process that truncates the file under us ends this one with
        // SIGBUS, as for every program that maps its model; loading copies what it keeps, so the window is short.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self { map })
    }

    pub fn bytes(&self) -> FileBytes<'_> {
        FileBytes { bytes: &self.map, file: Some(self) }
    }

    /// The pages of `range` stop counting as this process's memory; who reads them again gets them from the file.
    fn release(&self, range: Range<usize>) {
        // SAFETY: the map is of a file and never written, so that its pages can be read again at any time.
        let released = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
        // It is only advice: a system that does not take it keeps the pages until the file is closed.
        let _ = released;
    }
}

/// Bytes of a model file, mapped or held in memory.
#[derive(Clone, Copy)]
pub struct FileBytes<'a> {
    bytes: &'a [u8],
    /// The file that `bytes` are a map of.
    file: Option<&'a MappedFile>,
}

impl<'a> FileBytes<'a> {
    pub fn get(self) -> &'a [u8] {
        self.bytes
    }

    /// A part; `None` when it is not inside.
    pub fn slice(self, range: Range<usize>) -> Option<Self> {
        Some(Self { bytes: self.bytes.get(range)?, ..self })
    }

    /// Says that these bytes were copied: a mapped file's pages need not stay in memory, though they can be read again.
    pub fn release(self) {
        if let Some(file) = self.file {
            let start = self.bytes.as_ptr().addr() - file.map.as_ptr().addr();
            file.release(start..start + self.bytes.len());
        }
    }
}

impl Deref for FileBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl<'a> From<&'a [u8]> for FileBytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { bytes, file: None }
    }
}

impl<'a> From<&'a Vec<u8>> for FileBytes<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self { bytes, file: None }
    }
}
