//! What a user typed as the model, resolved to the file to open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::weights::gguf::SplitName;

/// Why a path does not name one model.
#[derive(Debug, thiserror::Error)]
pub enum ModelPathError {
    #[error(
        "{}: no such file or directory; pass a .gguf file or a model directory (nothing is downloaded)",
        path.display()
    )]
    NotFound { path: PathBuf },
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: a safetensors file alone says little; pass the directory that it and config.json lie in", path.display())]
    SafetensorsFile { path: PathBuf },
    #[error("{}: the directory has safetensors files, but no config.json beside them", path.display())]
    NoConfig { path: PathBuf },
    #[error(
        "{}: the directory has its weights only as pickles ({name}), which run code when they are read; \
         get the model as safetensors or GGUF",
        path.display()
    )]
    Pickle { path: PathBuf, name: String },
    #[error("{}: the directory has neither a .gguf file nor safetensors with a config.json", path.display())]
    NoModel { path: PathBuf },
    #[error("{}: the directory has several models; pass one of {}", path.display(), listed(names))]
    SeveralModels { path: PathBuf, names: Vec<String> },
}

/// The .gguf file that `typed` is, or the only model of the directory that it is: one file, or one set of splits, of
/// which the first present is given. A vision projector (`mmproj…`) beside a model is not another model. A directory
/// without .gguf files is a model itself if it has config.json and safetensors.
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
        Err(ModelPathError::SafetensorsFile { path })
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
        0 => directory_itself(path, &files),
        _ => {
            let mut names: Vec<String> = models.into_iter().map(|(name, _)| name).collect();
            names.sort();
            Err(ModelPathError::SeveralModels { path, names })
        }
    }
}

/// Whether `path`, in which `files` lie, is a model as Hugging Face lays them out.
fn directory_itself(path: PathBuf, files: &[PathBuf]) -> Result<PathBuf, ModelPathError> {
    let is_weights = |file: &&PathBuf| {
        has_extension(file, "safetensors") || file_name(file).ends_with(".safetensors.index.json")
    };
    let is_pickle =
        |file: &&PathBuf| ["bin", "pt", "pth", "pkl"].iter().any(|end| has_extension(file, end));
    let has_config = files.iter().any(|file| file_name(file) == "config.json");
    match (files.iter().find(is_weights), files.iter().find(is_pickle)) {
        (Some(_), _) if has_config => Ok(path),
        (Some(_), _) => Err(ModelPathError::NoConfig { path }),
        (None, Some(pickle)) => Err(ModelPathError::Pickle { path, name: file_name(pickle) }),
        (None, None) => Err(ModelPathError::NoModel { path }),
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
