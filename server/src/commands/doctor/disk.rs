//! Where models lie: room on the disk, and whether the files are what their names say.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use quire_engine::plan::human_bytes;
use quire_server::store::{BlobDigest, Store};
use sha2::{Digest, Sha256};

use super::{Finding, Surroundings};

/// With less than this free, neither models nor logs can be written.
const LEAST: u64 = 64 << 20;
/// With less than one part in so many, somebody should look.
const SHARE: u64 = 20;

pub(super) fn space(around: &Surroundings) -> Finding {
    let folders = around.stores.iter().map(Store::root).chain([&*around.models_dir]);
    let all = folders.filter(|folder| folder.is_dir()).map(of_folder).collect();
    Finding::worst(all, format!("room enough in {}", around.models_dir.display()))
}

fn of_folder(folder: &Path) -> Finding {
    let Ok(disk) = rustix::fs::statvfs(folder) else {
        return Finding::warning(format!("{}: its disk says nothing of itself", folder.display()));
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let all = disk.f_blocks.saturating_mul(disk.f_frsize);
    let message =
        format!("{} of {} are free in {}", human_bytes(free), human_bytes(all), folder.display());
    if free < LEAST {
        return Finding::failing(format!(
            "{message}: no model can be pulled; remove some with `quire rm`"
        ));
    }
    if disk.f_files > 0 && disk.f_favail == 0 {
        return Finding::failing(format!(
            "{}: the disk takes no more files (inodes)",
            folder.display()
        ));
    }
    if free < all / SHARE {
        return Finding::warning(format!(
            "{message}: remove models with `quire rm` before it is full"
        ));
    }
    Finding::ok(message)
}

pub(super) fn model_files(around: &Surroundings) -> Finding {
    let mut findings = Vec::new();
    let mut num_blobs = 0;
    for store in &around.stores {
        for stored in store.list() {
            for layer in stored.manifest.layers.iter().chain([&stored.manifest.config]) {
                num_blobs += 1;
                let wrong = wrong_with(
                    &store.blob_path(&layer.digest),
                    layer.size,
                    &layer.digest,
                    around.reads_all,
                );
                findings.extend(wrong.map(|wrong| {
                    Finding::failing(format!(
                        "{}: {} {wrong}; pull it again",
                        stored.name, layer.digest
                    ))
                }));
            }
        }
    }
    let how =
        if around.reads_all { "have the sums of their names" } else { "are whole by their sizes" };
    Finding::worst(findings, format!("{num_blobs} blobs of the stores {how}"))
}

fn wrong_with(path: &Path, size: u64, digest: &BlobDigest, reads_all: bool) -> Option<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return Some(format!("cannot be read ({error})")),
    };
    let found = file.metadata().map_or(0, |metadata| metadata.len());
    if found != size {
        return Some(format!("has {found} bytes, not {size}"));
    }
    if !reads_all {
        return None;
    }
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hash.update(&buffer[..count]),
            Err(error) => return Some(format!("cannot be read ({error})")),
        }
    }
    let sum = hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    (digest.to_string() != format!("sha256:{sum}"))
        .then(|| "has changed: its sum is another".to_owned())
}
