//! Files that are read again while they are served: every two seconds if they have changed, and at once on SIGHUP.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::metrics::{counter, gauge};
use tokio::signal::unix::Signal;

const INTERVAL: Duration = Duration::from_secs(2);

/// Files that are in force together.
pub(crate) struct Source {
    /// As the log calls them.
    pub(crate) what: &'static str,
    /// The gauge that says whether they are in force as they are now.
    pub(crate) ok: &'static str,
    /// The counter of reloads, by result.
    pub(crate) reloads: &'static str,
    pub(crate) paths: Vec<PathBuf>,
    /// Reads them and puts them in force. After an error those before stay in force.
    pub(crate) read: Arc<dyn Fn() -> anyhow::Result<()> + Send + Sync>,
}

/// What tells one version of a file from another.
#[derive(PartialEq)]
struct Version {
    modified: (i64, i64),
    inode: u64,
    size: u64,
}

/// Watches the files until it is dropped. With none a SIGHUP is still taken: it ends nothing.
pub(crate) async fn watch(sources: Vec<Source>, mut hangup: Option<Signal>) {
    for source in &sources {
        source.count("ok", 0);
        source.count("failed", 0);
        source.show(true);
    }
    let mut seen: Vec<_> = sources.iter().map(Source::versions).collect();
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        let is_asked = tokio::select! {
            _ = ticks.tick() => false,
            () = next(&mut hangup) => true,
        };
        if is_asked && sources.is_empty() {
            tracing::info!("SIGHUP: there are no files to read again (--keys-file, --tls-cert)");
        }
        for (source, seen) in sources.iter().zip(&mut seen) {
            let now = source.versions();
            if is_asked || now != *seen {
                *seen = now;
                source.reload().await;
            }
        }
    }
}

async fn next(hangup: &mut Option<Signal>) {
    let came = match hangup {
        Some(hangup) => hangup.recv().await.is_some(),
        None => false,
    };
    if !came {
        std::future::pending::<()>().await;
    }
}

impl Source {
    /// Files that are wrong change nothing: what was served still is.
    async fn reload(&self) {
        let read = Arc::clone(&self.read);
        let read = tokio::task::spawn_blocking(move || read()).await;
        let read = read.unwrap_or_else(|_| Err(anyhow::anyhow!("reading panicked")));
        self.show(read.is_ok());
        match read {
            Ok(()) => {
                self.count("ok", 1);
                tracing::info!("{}: read again", self.what);
            }
            Err(error) => {
                self.count("failed", 1);
                tracing::error!("{}: what was before stays in force: {error:#}", self.what);
            }
        }
    }

    fn versions(&self) -> Vec<Option<Version>> {
        self.paths.iter().map(|path| version(path)).collect()
    }

    fn count(&self, result: &'static str, times: u64) {
        counter!(self.reloads, "result" => result).increment(times);
    }

    fn show(&self, is_in_force: bool) {
        gauge!(self.ok).set(if is_in_force { 1.0 } else { 0.0 });
    }
}

fn version(path: &Path) -> Option<Version> {
    let of = |metadata: Metadata| Version {
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        inode: metadata.ino(),
        size: metadata.size(),
    };
    std::fs::metadata(path).ok().map(of)
}
