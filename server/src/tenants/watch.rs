//! Takes a changed keys file without a restart: it is looked at every two seconds, and at once on SIGHUP.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use ::metrics::{counter, gauge};
use tokio::signal::unix::{SignalKind, signal};

use super::{KeysFile, Tenants};
use crate::app::SharedState;

const INTERVAL: Duration = Duration::from_secs(2);

/// What tells one version of a file from another.
#[derive(PartialEq)]
struct Version {
    modified: (i64, i64),
    inode: u64,
    size: u64,
}

/// Watches the keys file, where there is one, until it is dropped.
pub(crate) async fn watch(state: SharedState) {
    let tenants = &state.tenants;
    let Some(file) = tenants.file() else { return };
    count("ok", 0);
    count("failed", 0);
    show(true);
    let path = file.path().to_owned();
    let mut seen = version(&path);
    let mut hangup = signal(SignalKind::hangup()).ok();
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        let is_asked = tokio::select! {
            _ = ticks.tick() => false,
            () = next(&mut hangup) => true,
        };
        let now = version(&path);
        if !is_asked && now == seen {
            continue;
        }
        seen = now;
        let path = path.clone();
        let read = tokio::task::spawn_blocking(move || KeysFile::open(&path)).await;
        reload(tenants, read.unwrap_or_else(|_| Err(anyhow::anyhow!("reading it panicked"))));
    }
}

async fn next(hangup: &mut Option<tokio::signal::unix::Signal>) {
    let came = match hangup {
        Some(hangup) => hangup.recv().await.is_some(),
        None => false,
    };
    if !came {
        std::future::pending::<()>().await;
    }
}

/// A file that is wrong changes nothing: those who could ask still can.
fn reload(tenants: &Tenants, read: anyhow::Result<KeysFile>) {
    let applied = read.and_then(|file| {
        tenants.apply(file.entries()).map_err(anyhow::Error::msg)?;
        Ok(file.entries().len())
    });
    show(applied.is_ok());
    match applied {
        Ok(num_tenants) => {
            count("ok", 1);
            tracing::info!(num_tenants, "the keys file was read again");
        }
        Err(error) => {
            count("failed", 1);
            tracing::error!("the keys file is wrong and the one before stays in force: {error:#}");
        }
    }
}

fn count(result: &'static str, times: u64) {
    counter!("quire_keys_file_reloads_total", "result" => result).increment(times);
}

fn show(is_in_force: bool) {
    gauge!("quire_keys_file_ok").set(if is_in_force { 1.0 } else { 0.0 });
}

fn version(path: &Path) -> Option<Version> {
    let of = |metadata: Metadata| Version {
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        inode: metadata.ino(),
        size: metadata.size(),
    };
    std::fs::metadata(path).ok().map(of)
}
