//! What `make tokenizers` brings: real vocabularies and chat templates.

use std::path::{Path, PathBuf};

/// A file below `models/tokenizers`; `None`, which is said, where nothing was fetched. Where something was, all has to be there: else
/// a test that has lost its files would pass.
#[expect(clippy::print_stdout, reason = "a test says what it leaves out")]
pub(crate) fn fetched(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("server has a parent");
    let folder = root.join("models/tokenizers");
    let path = folder.join(name);
    if path.is_file() {
        return Some(path);
    }
    assert!(!folder.join("SHA512").exists(), "{} is missing", path.display());
    println!("not run: {name} (`make tokenizers` brings it)");
    None
}
