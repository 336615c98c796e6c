//! Blobs: written to a temporary file, and named by their sum once they are whole.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use quire_engine::plan::human_bytes;
use sha2::{Digest, Sha256};

use super::Store;
use super::manifest::Layer;
use super::name::BlobDigest;
use crate::registry::hex;

/// Left free on the disk.
const DISK_MARGIN: u64 = 64 << 20;
const BUFFER_SIZE: usize = 1 << 20;

/// A blob that grows; dropped before it is finished, it leaves nothing.
pub struct BlobWriter {
    store: Store,
    part: PathBuf,
    file: File,
    hash: Sha256,
    len: u64,
    limit: u64,
}

impl Store {
    pub fn blob_path(&self, digest: &BlobDigest) -> PathBuf {
        self.blobs().join(digest.file_name())
    }

    pub fn has_blob(&self, digest: &BlobDigest) -> bool {
        self.blob_path(digest).is_file()
    }

    pub fn blobs(&self) -> PathBuf {
        self.root().join("blobs")
    }

    /// Begins a blob of `size` bytes, or of at most `limit` where its size is not known.
    pub fn write_blob(&self, size: Option<u64>, limit: u64) -> Result<BlobWriter> {
        let folder = self.blobs();
        let context = || format!("{} cannot be written", folder.display());
        fs::create_dir_all(&folder).with_context(context)?;
        check_disk(&folder, size.unwrap_or(0))?;
        let part = folder.join(format!("{}.part", uuid::Uuid::new_v4().simple()));
        let file = OpenOptions::new().write(true).create_new(true).open(&part);
        Ok(BlobWriter {
            store: self.clone(),
            part,
            file: file.with_context(context)?,
            hash: Sha256::new(),
            len: 0,
            limit: size.unwrap_or(limit).min(limit),
        })
    }

    /// A small blob of its own bytes.
    pub fn put_text(&self, kind: &str, text: &[u8]) -> Result<Layer> {
        let digest = self.put_bytes(text)?;
        Ok(Layer::new(kind, digest, text.len() as u64))
    }

    pub fn put_bytes(&self, bytes: &[u8]) -> Result<BlobDigest> {
        let mut writer = self.write_blob(Some(bytes.len() as u64), u64::MAX)?;
        writer.append(bytes)?;
        writer.finish(None)
    }

    /// A copy of a file.
    pub fn import(&self, path: &Path) -> Result<(BlobDigest, u64)> {
        let mut file =
            File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let size = file.metadata()?.len();
        let mut writer = self.write_blob(Some(size), u64::MAX)?;
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            writer.append(&buffer[..count])?;
        }
        Ok((writer.finish(None)?, size))
    }
}

impl BlobWriter {
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        ensure!(self.len <= self.limit, "the blob is longer than {}", human_bytes(self.limit));
        self.file
            .write_all(bytes)
            .with_context(|| format!("{} cannot be written", self.store.blobs().display()))?;
        self.hash.update(bytes);
        Ok(())
    }

    /// Gives the blob its name; an error if its sum is not the one that was said.
    pub fn finish(mut self, expected: Option<&BlobDigest>) -> Result<BlobDigest> {
        let hash = std::mem::take(&mut self.hash);
        let found: BlobDigest = format!("sha256:{}", hex(&hash.finalize())).parse()?;
        if let Some(expected) = expected.filter(|expected| **expected != found) {
            bail!("the checksum is wrong: the bytes are {found}, not {expected}");
        }
        self.file.sync_all()?;
        fs::rename(&self.part, self.store.blob_path(&found))?;
        Ok(found)
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // A finished one has another name by now.
        let _ = fs::remove_file(&self.part);
    }
}

/// Whether `missing` more bytes fit where `folder` is.
pub(crate) fn check_disk(folder: &Path, missing: u64) -> Result<()> {
    let Ok(disk) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let need = missing.saturating_add(DISK_MARGIN);
    ensure!(
        free >= need,
        "{} more are needed in {}, and only {} are free; make room or name another --models-dir",
        human_bytes(need),
        folder.display(),
        human_bytes(free)
    );
    Ok(())
}
