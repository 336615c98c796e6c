//! Which models `quire serve` is to load on demand: those named, and all of folders that have several.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use quire_server::registry::Origin;
use quire_server::store::{Store, Stored};

use super::model;
use crate::args::CommonOptions;

/// Models of one server at most.
const MAX_MODELS: usize = 1024;

/// A model and its names, the first one shown.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) names: Vec<String>,
    pub(crate) origin: Origin,
    /// Tokens of its context, once it is planned.
    pub(crate) max_model_len: Option<u32>,
}

/// Several models where `typed` means several; `None`: it means one, or the default one.
pub(crate) fn find(typed: &[String], options: &CommonOptions) -> Result<Option<Vec<Named>>> {
    let has_folder =
        typed.iter().map(Path::new).any(|path| is_folder_of_models(path) || Store::is_one(path));
    if typed.len() < 2 && !has_folder {
        return Ok(None);
    }
    let mut found: Vec<Named> = Vec::new();
    for name in typed {
        let path = Path::new(name);
        if Store::is_one(path) {
            found.extend(all_of(&Store::new(path.to_owned())));
        }
        if is_folder_of_models(path) {
            found.extend(all_in(path));
        } else if !Store::is_one(path) {
            let origin = model::find_origin(name, options)?;
            let mut names = Vec::new();
            if !path.exists() {
                names.push(name.clone());
            }
            let own = model::served_name(&origin.path);
            // A blob has no name of its own.
            names.extend((origin.digest.is_none() && !names.contains(&own)).then_some(own));
            found.push(Named { names, origin, max_model_len: None });
        }
    }
    ensure!(found.len() <= MAX_MODELS, "{} models are more than {MAX_MODELS}", found.len());
    Ok(Some(found))
}

fn is_folder_of_models(path: &Path) -> bool {
    path.is_dir() && model::models_in(path).len() > 1
}

/// The models of a folder by the names of their files; by their paths where two files have one name.
fn all_in(folder: &Path) -> Vec<Named> {
    let paths = model::models_in(folder);
    let names: Vec<String> = paths.iter().map(|path| model::served_name(path)).collect();
    let named = |(index, path): (usize, &PathBuf)| {
        let is_alone = names.iter().filter(|name| **name == names[index]).count() == 1;
        let inside = path.strip_prefix(folder).unwrap_or(path).with_file_name(&names[index]);
        let name = if is_alone { names[index].clone() } else { inside.display().to_string() };
        let origin = Origin { path: path.clone(), ..Origin::default() };
        Named { names: vec![name], origin, max_model_len: None }
    };
    paths.iter().enumerate().map(named).collect()
}

/// The models of a store; those that cannot be served are left out, and logged.
fn all_of(store: &Store) -> Vec<Named> {
    let named = |stored: Stored| match store.origin(&stored) {
        Ok(origin) => {
            let names = vec![stored.name.to_string()];
            Some(Named { names, origin, max_model_len: None })
        }
        Err(error) => {
            tracing::warn!("left out: {error:#}");
            None
        }
    };
    store.list().into_iter().filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_names_are_several_models() {
        let root = std::env::temp_dir().join(format!("quire-several-{}", std::process::id()));
        for file in ["a.gguf", "org/one/m.gguf", "org/two/m.gguf", "lone/x.gguf"] {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let options = CommonOptions {
            models_dir: root.clone(),
            ollama_dir: None,
            log_level: crate::args::LogLevel::Warn,
            log_format: crate::args::LogFormat::Text,
        };
        let names = |typed: &[&str]| {
            let typed: Vec<String> = typed.iter().map(|name| (*name).to_owned()).collect();
            let found = find(&typed, &options).unwrap()?;
            Some(found.into_iter().map(|named| named.names.join(" ")).collect::<Vec<_>>())
        };
        let all = root.to_str().unwrap();
        let lone = root.join("lone");
        assert_eq!(names(&[all]).unwrap(), ["a", "x", "org/one/m", "org/two/m"]);
        assert_eq!(names(&["a", "org/one"]).unwrap(), ["a", "org/one m"]);
        assert_eq!(names(&[]), None);
        assert_eq!(names(&["a"]), None);
        assert_eq!(names(&[lone.to_str().unwrap()]), None);
        let missing = find(&["a".into(), "nothing".into()], &options).unwrap_err().to_string();
        assert!(missing.contains("'nothing'"), "{missing}");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
