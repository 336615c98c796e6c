//! JSON files beside weights, read with a limit on their size.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;

/// The value of the file at `path`, which has at most `max_bytes`. Errors name the file.
pub(super) fn read(path: &Path, max_bytes: u64) -> anyhow::Result<Value> {
    let name = || path.display().to_string();
    let found = fs::metadata(path).with_context(name)?;
    // Before it is opened: the opening of a pipe waits for its other end.
    ensure!(found.is_file(), "{}: is not a regular file", path.display());
    ensure!(
        found.len() <= max_bytes,
        "{}: has {} bytes; at most {max_bytes} are read",
        path.display(),
        found.len()
    );
    let bytes = fs::read(path).with_context(name)?;
    serde_json::from_slice(&bytes).with_context(|| format!("{}: is not JSON", path.display()))
}
