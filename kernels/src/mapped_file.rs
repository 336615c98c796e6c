//! A file mapped read-only into memory: how weights are read without a copy.

use std::fs::File;
use std::path::Path;

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

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}
