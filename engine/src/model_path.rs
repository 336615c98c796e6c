//! What a user typed as the model, resolved to the file to open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::weights::gguf::SplitName;

/// Why a path does not name one model.
#[derive(Debug, thiserror::Error)]
pub enum ModelPathError {
    #[error(
        "{}: no such file or directory; pass a .gguf file or a directory with one (nothing is downloaded)",
        path.display()
    )]
    NotFound { path: PathBuf },
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: safetensors {what} are not supported yet; pass a .gguf file", path.display())]
    Safetensors { path: PathBuf, what: &'static str },
    #[error("{}: the directory has no .gguf file", path.display())]
    NoModel { path: PathBuf },
    #[error("{}: the directory has several models; pass one of {}", path.display(), listed(names))]
    SeveralModels { path: PathBuf, names: Vec<String> },
}

/// The .gguf file that `typed` is, or the only model of the directory that it is: one file, or one set of splits, of
/// which the first present is given. A vision projector (`mmproj…`) beside a model is not another model.
///
/// A file is taken whatever its name, since some stores name files by their hash.
pub fn resolve_model_path(typed: &Path) -> Result<PathBuf, ModelPathError> {
    let path = typed.to_owned();
    let found = match fs::metadata(typed) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ModelPathError::NotFound { path });
        }
        Err(source) => return Err(ModelPathError::Unreadable { path, source }),
    };
    if found.is_dir() {
        return only_model_in(typed);
    }
    if has_extension(typed, "safetensors") {
        Err(ModelPathError::Safetensors { path, what: "files" })
    } else {
        Ok(path)
    }
}

fn only_model_in(directory: &Path) -> Result<PathBuf, ModelPathError> {
    let path = directory.to_owned();
    let entries = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let files: Vec<PathBuf> = match entries {
        Ok(entries) => {
            entries.iter().map(fs::DirEntry::path).filter(|file| file.is_file()).collect()
        }
        Err(source) => return Err(ModelPathError::Unreadable { path, source }),
    };
    let mut models: Vec<(String, PathBuf)> =
        models(&files).into_values().map(|first| (file_name(&first), first)).collect();
    if models.len() > 1 {
        models.retain(|(name, _)| !name.starts_with("mmproj"));
    }
    match models.len() {
        1 => Ok(models.swap_remove(0).1),
        0 if files.iter().any(|file| has_extension(file, "safetensors")) => {
            Err(ModelPathError::Safetensors { path, what: "directories" })
        }
        0 => Err(ModelPathError::NoModel { path }),
        _ => {
            let mut names: Vec<String> = models.into_iter().map(|(name, _)| name).collect();
            names.sort();
            Err(ModelPathError::SeveralModels { path, names })
        }
    }
}

/// Per model the first of its files: splits are one model if they agree on its name and their count.
fn models(files: &[PathBuf]) -> BTreeMap<(String, u64), PathBuf> {
    let mut models: BTreeMap<(String, u64), PathBuf> = BTreeMap::new();
    for file in files.iter().filter(|file| has_extension(file, "gguf")) {
        let name = file_name(file);
        let model = SplitName::parse(&name).map_or((name, 0), |split| (split.model, split.count));
        let first = models.entry(model).or_insert_with(|| file.clone());
        if file < first {
            first.clone_from(file);
        }
    }
    models
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(wanted))
}

fn listed(names: &[String]) -> String {
    const MAX_SHOWN: usize = 20;
    let shown = names.iter().take(MAX_SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
