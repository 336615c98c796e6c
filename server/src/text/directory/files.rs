//! Reading small files with a limit on their size.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde_json::Value;

use super::DirectoryError;

/// Of tokenizer.json; the largest known ones have 35 MB.
pub(super) const MAX_TOKENIZER_BYTES: u64 = 256 << 20;
/// Of every other file.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// The JSON of a file, `None` if there is no such file.
pub(super) fn json(path: &Path, max_bytes: u64) -> Result<Option<Value>, DirectoryError> {
    let Some(text) = text(path, max_bytes)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| DirectoryError { path: path.to_owned(), problem: error.to_string() })
}

/// The text of a file, `None` if there is no such file.
pub(super) fn text(path: &Path, max_bytes: u64) -> Result<Option<String>, DirectoryError> {
    let error = |problem: String| DirectoryError { path: path.to_owned(), problem };
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(_) => return Err(error("is not a regular file".to_owned())),
        Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(None),
        Err(other) => return Err(error(other.to_string())),
    }
    let file = fs::File::open(path).map_err(|io| error(io.to_string()))?;
    let mut text = String::new();
    file.take(max_bytes + 1).read_to_string(&mut text).map_err(|io| error(io.to_string()))?;
    if text.len() as u64 > max_bytes {
        return Err(error(format!("is longer than the {max_bytes} bytes that are read")));
    }
    Ok(Some(text))
}
