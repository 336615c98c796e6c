//! One file from the hub to its place: resumed, verified, and renamed only when whole.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::hub::{Download, Hub, HubFile, Listing};
use super::progress::Progress;
use quire_engine::plan::human_bytes;

/// Attempts in a row that bring no new byte before the download is given up.
const MAX_FRUITLESS_ATTEMPTS: u32 = 4;
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Left free on the disk.
const DISK_MARGIN: u64 = 64 << 20;
const BUFFER_SIZE: usize = 1 << 20;

/// Downloads `file` to `folder`, unless it is there already, and returns its path.
pub(crate) fn fetch(
    hub: &Hub,
    listing: &Listing,
    file: &HubFile,
    folder: &Path,
) -> Result<PathBuf> {
    let path = folder.join(&file.path);
    let folder = path.parent().context("a joined path has a parent")?;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{} cannot be made", folder.display()))?;
    if is_there(&path, file)? {
        eprintln!("{} is here already", file.path);
        return Ok(path);
    }
    let mut part = Part::open(&path, file)?;
    part.fill(hub, listing, file)?;
    part.finish(&path)?;
    Ok(path)
}

/// Whether the whole and right file lies at `path`.
fn is_there(path: &Path, file: &HubFile) -> Result<bool> {
    let Ok(metadata) = path.metadata() else { return Ok(false) };
    if file.size.is_some_and(|size| size != metadata.len()) {
        return Ok(false);
    }
    let Some(expected) = &file.sha256 else { return Ok(file.size.is_some()) };
    let mut hash = Sha256::new();
    hash_file(&mut File::open(path)?, &mut hash)?;
    Ok(hex(hash) == *expected)
}

/// The growing file. Its name holds the checksum, so that no version is resumed with another.
struct Part {
    path: PathBuf,
    file: File,
    hash: Sha256,
    len: u64,
    expected_size: Option<u64>,
    expected_sha256: Option<String>,
}

impl Part {
    fn open(path: &Path, file: &HubFile) -> Result<Self> {
        let version = file.sha256.as_deref().map_or("new", |sha256| &sha256[..12]);
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{version}.part"));
        let path = PathBuf::from(name);
        let context = || format!("{} cannot be written", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut handle = options.open(&path).with_context(context)?;
        if handle.try_lock().is_err() {
            bail!("{} is being written by another quire pull", path.display());
        }
        if file.sha256.is_none() {
            // Without a checksum nothing tells whether the bytes are of the same version.
            handle.set_len(0).with_context(context)?;
        }
        let mut hash = Sha256::new();
        let len = hash_file(&mut handle, &mut hash).with_context(context)?;
        Ok(Self {
            path,
            file: handle,
            hash,
            len,
            expected_size: file.size,
            expected_sha256: file.sha256.clone(),
        })
    }

    /// Reads what is missing, again and again as long as each attempt brings something.
    fn fill(&mut self, hub: &Hub, listing: &Listing, file: &HubFile) -> Result<()> {
        if self.expected_size.is_some_and(|size| self.len > size) {
            self.restart()?;
        }
        let mut progress = Progress::new(&file.path);
        let mut fruitless = 0;
        while self.expected_size.is_none_or(|size| self.len < size) {
            let before = self.len;
            let outcome = hub
                .open(listing, file, self.len)
                .and_then(|download| self.append(download, &mut progress));
            if outcome.is_ok() && self.expected_size.is_none_or(|size| self.len >= size) {
                break;
            }
            fruitless = if self.len > before { 0 } else { fruitless + 1 };
            let is_final = outcome.as_ref().is_err_and(|error| !is_transient(error));
            if fruitless >= MAX_FRUITLESS_ATTEMPTS || (fruitless > 0 && is_final) {
                outcome?;
                bail!("{} stays incomplete at {}; pull again", file.path, human_bytes(self.len));
            }
            std::thread::sleep(RETRY_DELAY);
        }
        progress.finish();
        Ok(())
    }

    fn append(&mut self, mut download: Download, progress: &mut Progress) -> Result<()> {
        self.expected_size = self.expected_size.or(download.size);
        self.expected_sha256 = self.expected_sha256.take().or(download.sha256.take());
        if download.start != self.len {
            self.restart()?;
        }
        check_disk(&self.path, self.expected_size.unwrap_or(0).saturating_sub(self.len))?;
        progress.start(self.len, self.expected_size);
        self.file.seek(SeekFrom::Start(self.len))?;
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            let count = download.body.read(&mut buffer).map_err(Interrupted)?;
            if count == 0 {
                return Ok(());
            }
            if self.expected_size.is_some_and(|size| self.len + count as u64 > size) {
                self.restart()?;
                bail!("the hub sends more bytes than it named");
            }
            self.file
                .write_all(&buffer[..count])
                .with_context(|| format!("{} cannot be written", self.path.display()))?;
            self.hash.update(&buffer[..count]);
            self.len += count as u64;
            progress.advance(self.len);
        }
    }

    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0)?;
        self.hash = Sha256::new();
        self.len = 0;
        Ok(())
    }

    /// Verifies the sum and gives the file its name. A wrong file is deleted.
    fn finish(self, path: &Path) -> Result<()> {
        let found = hex(self.hash);
        match &self.expected_sha256 {
            Some(expected) if *expected != found => {
                std::fs::remove_file(&self.path)?;
                bail!(
                    "{}: the checksum is wrong (sha256 {found}, not {expected}); the download is \
                     deleted, pull again",
                    path.display()
                );
            }
            Some(_) => {}
            None => tracing::warn!(
                "{}: the hub names no sha256; only the length was verified",
                path.display()
            ),
        }
        self.file.sync_all()?;
        std::fs::rename(&self.path, path)
            .with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// A connection that broke: worth another attempt.
#[derive(Debug, thiserror::Error)]
#[error("the connection broke: {0}")]
struct Interrupted(std::io::Error);

fn is_transient(error: &anyhow::Error) -> bool {
    error.is::<Interrupted>() || error.downcast_ref::<ureq::Error>().is_some()
}

fn check_disk(path: &Path, missing: u64) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    let Ok(disk) = rustix::fs::statvfs(folder) else { return Ok(()) };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < missing.saturating_add(DISK_MARGIN) {
        bail!(
            "{} more are needed in {}, and only {} are free; make room or name another --models-dir",
            human_bytes(missing + DISK_MARGIN),
            folder.display(),
            human_bytes(free)
        );
    }
    Ok(())
}

/// Hashes the file from its begin and returns its length.
fn hash_file(file: &mut File, hash: &mut Sha256) -> std::io::Result<u64> {
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; BUFFER_SIZE];
    let mut len = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(len);
        }
        hash.update(&buffer[..count]);
        len += count as u64;
    }
}

fn hex(hash: Sha256) -> String {
    use std::fmt::Write as _;
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
