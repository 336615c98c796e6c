//! One file from the hub to its place: resumed, verified, and renamed only when whole.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use quire_engine::plan::human_bytes;

use super::agents::Span;
use super::guard::is_refusal;
use super::hub::{Download, HubFile};
use super::{Report, Step, ranges};
use crate::registry::hex;
use crate::store::check_disk;

/// Attempts in a row that bring no new byte before the download is given up.
const MAX_FRUITLESS_ATTEMPTS: u32 = 4;
const RETRY_DELAY: Duration = Duration::from_secs(1);
const BUFFER_SIZE: usize = 1 << 20;
/// Of a file of unknown length, after so many bytes the disk is looked at again.
const CHECKED_BYTES: u64 = 32 << 20;

/// Gives bytes of a file.
pub(super) type Open<'a> = &'a (dyn Fn(Span) -> Result<Download> + Sync);

/// Downloads `file` to `path`, unless it is there already, in up to `max_streams` ranges at once.
pub(super) fn fetch(
    open: Open<'_>,
    max_streams: usize,
    file: &HubFile,
    path: &Path,
    report: Report<'_>,
) -> Result<()> {
    let folder = path.parent().context("a joined path has a parent")?;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("{} cannot be made", folder.display()))?;
    if is_there(path, file)? {
        report(file, Step::Here);
        return Ok(());
    }
    let mut part = Part::open(path, file)?;
    part.max_streams = max_streams;
    if part.len == 0 && is_there(path, file)? {
        // Another pull was faster.
        std::fs::remove_file(&part.path)?;
        report(file, Step::Here);
        return Ok(());
    }
    part.fill(open, file, report)?;
    report(file, Step::Verifying);
    part.finish(path)
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
    Ok(hex(&hash.finalize()) == *expected)
}

/// The growing file. Its name holds the checksum, so that no version is resumed with another.
struct Part {
    path: PathBuf,
    file: File,
    hash: Sha256,
    len: u64,
    expected_size: Option<u64>,
    expected_sha256: Option<String>,
    /// Ranges at once; 1 once they were refused.
    max_streams: usize,
}

impl Part {
    fn open(path: &Path, file: &HubFile) -> Result<Self> {
        let version = file.sha256.as_deref().map_or("new", |sha256| &sha256[..12]);
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{version}.part"));
        let path = PathBuf::from(name);
        let context = || format!("{} cannot be written", path.display());
        let mut handle = open_alone(&path).with_context(context)?;
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
            max_streams: 1,
        })
    }

    /// Reads what is missing, again and again as long as each attempt brings something.
    fn fill(&mut self, open: Open<'_>, file: &HubFile, report: Report<'_>) -> Result<()> {
        if self.expected_size.is_some_and(|size| self.len > size) {
            self.restart()?;
        }
        let mut fruitless = 0;
        while self.expected_size.is_none_or(|size| self.len < size) {
            let before = self.len;
            let outcome = self.attempt(open, file, &mut *report);
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
        Ok(())
    }

    /// Reads what is missing until something breaks: several ranges at once where much is, and else one stream.
    fn attempt(&mut self, open: Open<'_>, file: &HubFile, report: Report<'_>) -> Result<()> {
        let size = self.expected_size.filter(|size| ranges::is_worth_it(size - self.len));
        if let Some(size) = size.filter(|_| self.max_streams > 1 && self.expected_sha256.is_some())
        {
            check_disk(self.path.parent().unwrap_or(&self.path), size - self.len)?;
            report(file, Step::Started { len: self.len, size: Some(size) });
            self.file.seek(SeekFrom::Start(self.len))?;
            let outcome = ranges::fetch(open, self.len..size, self.max_streams, &mut |bytes| {
                self.write(bytes)?;
                report(file, Step::Has { len: self.len, size: Some(size) });
                Ok(())
            });
            match outcome {
                Err(error) if error.is::<ranges::NoRanges>() => self.max_streams = 1,
                outcome => return outcome,
            }
        }
        let download = open(Span { start: self.len, len: None })?;
        self.append(download, file, report)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .with_context(|| format!("{} cannot be written", self.path.display()))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn append(&mut self, mut download: Download, file: &HubFile, report: Report<'_>) -> Result<()> {
        self.expected_size = self.expected_size.or(download.size);
        self.expected_sha256 = self.expected_sha256.take().or(download.sha256.take());
        if download.start != self.len {
            self.restart()?;
        }
        let folder = self.path.parent().unwrap_or(&self.path).to_path_buf();
        check_disk(&folder, self.expected_size.unwrap_or(0).saturating_sub(self.len))?;
        report(file, Step::Started { len: self.len, size: self.expected_size });
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
            let before = self.len / CHECKED_BYTES;
            self.write(&buffer[..count])?;
            if self.expected_size.is_none() && self.len / CHECKED_BYTES > before {
                check_disk(&folder, 0)?;
            }
            report(file, Step::Has { len: self.len, size: self.expected_size });
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
        let found = hex(&self.hash.finalize());
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

/// Opens the file, or makes it, for this pull alone. A link in its place is not followed: it may lead anywhere.
fn open_alone(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    loop {
        let file = options.open(path)?;
        let opened = file.metadata()?;
        ensure!(opened.is_file(), "it is no file");
        ensure!(file.try_lock().is_ok(), "it is being written by another quire pull");
        // Another pull may have finished in between, and given this file its name.
        let is_here = path
            .symlink_metadata()
            .is_ok_and(|found| (found.dev(), found.ino()) == (opened.dev(), opened.ino()));
        if is_here {
            return Ok(file);
        }
    }
}

/// A connection that broke: worth another attempt.
#[derive(Debug, thiserror::Error)]
#[error("the connection broke: {0}")]
pub(super) struct Interrupted(pub(super) std::io::Error);

fn is_transient(error: &anyhow::Error) -> bool {
    error.is::<Interrupted>()
        || error.downcast_ref::<ureq::Error>().is_some_and(|error| !is_refusal(error))
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
