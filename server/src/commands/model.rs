//! Which file a model's name means.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use quire_engine::ModelFiles;
use quire_engine::model_path::resolve_model_path;
use quire_engine::weights::gguf::SplitName;
use quire_server::registry::Origin;
use quire_server::store::{Store, StoreName};

use crate::args::{CommonOptions, LoadFormat};
use crate::exit;

/// What is served when no model is named; `make model` fetches it.
pub(crate) const DEFAULT_MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// How deep models lie in the models folder: `ORG/REPO/FOLDER/FILE.gguf`, or `ORG/REPO` with safetensors.
const MAX_DEPTH: usize = 4;

/// The model that `name` means: a GGUF file, a folder that is or has one model, or a name in `models_dir`.
pub(crate) fn find(name: Option<&str>, models_dir: &Path) -> Result<PathBuf> {
    let Some(name) = name else {
        let path = models_dir.join(DEFAULT_MODEL);
        if path.is_file() {
            return Ok(path);
        }
        bail!(
            "no model is named, and the default one ({DEFAULT_MODEL}) is not in {}; get it with \
             `make model`, get another with `quire pull ORG/REPO`, or name a GGUF file or a model's directory",
            models_dir.display()
        );
    };
    let path = Path::new(name);
    if path.exists() {
        return Ok(resolve_model_path(path)?);
    }
    find_by_name(name, models_dir)?.with_context(|| {
        format!(
            "there is no file '{name}' and no such model in {}; `quire list` shows those there, \
             `quire pull ORG/REPO` gets one",
            models_dir.display()
        )
    })
}

/// As `find`, and models of the stores by their names there, with what their Modelfiles say.
pub(crate) fn find_origin(name: &str, options: &CommonOptions) -> Result<Origin> {
    if !Path::new(name).exists()
        && let Ok(wanted) = name.parse::<StoreName>()
    {
        for store in stores(options) {
            if let Some(stored) = store.find(&wanted)? {
                return store.origin(&stored);
            }
        }
    }
    let path = find(Some(name), &options.models_dir)?;
    Ok(Origin { path, ..Origin::default() })
}

/// Quire's own store, and Ollama's.
pub(crate) fn stores(options: &CommonOptions) -> Vec<Store> {
    let dirs = std::iter::once(&options.models_dir).chain(&options.ollama_dir);
    dirs.filter(|dir| Store::is_one(dir)).map(|dir| Store::new(dir.clone())).collect()
}

/// The models under `folder`, sorted: GGUF files (of a split one, its first part), and directories with safetensors.
pub(crate) fn models_in(folder: &Path) -> Vec<PathBuf> {
    let mut models = Vec::new();
    collect(folder, MAX_DEPTH, &mut models);
    models.sort();
    models
}

/// The model's name in the API when no flag gives one: the directory's, or the file's without `.gguf` and the part's
/// number.
pub(crate) fn served_name(path: &Path) -> String {
    // A directory typed as `.` or `..` has its name elsewhere.
    let whole = path.file_name().is_none().then(|| path.canonicalize().ok()).flatten();
    let path = whole.as_deref().unwrap_or(path);
    let base = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
    match SplitName::parse(&base) {
        Some(split) => split.model,
        None => base.strip_suffix(".gguf").unwrap_or(&base).to_owned(),
    }
}

/// Opens the model; the error is one sentence that names the file.
pub(crate) fn open(path: &Path) -> Result<ModelFiles> {
    ModelFiles::open(path)
}

/// The model of that name, and where it comes from; with dummy weights a config.json, or a directory that has one.
pub(crate) fn open_named(
    (name, load_format): (Option<&str>, LoadFormat),
    options: &CommonOptions,
) -> Result<(Origin, ModelFiles)> {
    let LoadFormat::Dummy(format) = load_format else {
        let default = || find(None, &options.models_dir);
        let found = match name {
            Some(name) => find_origin(name, options),
            None => default().map(|path| Origin { path, ..Origin::default() }),
        };
        let origin = found.map_err(exit::missing_model)?;
        let files = open(&origin.path).map_err(|error| exit::bad_model(error, &origin.path))?;
        return Ok((origin, files));
    };
    let name = name.context("--load-format dummy needs a config.json, or a directory with one")?;
    let path = PathBuf::from(name);
    let is_gguf = path.extension().is_some_and(|ending| ending == "gguf");
    ensure!(!is_gguf, "{name}: --load-format dummy reads a config.json, not a GGUF file");
    let files = ModelFiles::dummy(&path, format);
    let files = files.map_err(|error| exit::bad_model(error, &path))?;
    Ok((Origin { path, ..Origin::default() }, files))
}

/// `ORG/REPO`, `ORG/REPO:QUANT`, a file's name, or that without `.gguf`; letters' case aside.
fn find_by_name(name: &str, models_dir: &Path) -> Result<Option<PathBuf>> {
    let (base, quant) = match name.split_once(':') {
        Some((base, quant)) => (base, Some(quant)),
        None => (name, None),
    };
    let is_plain = base.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    if !is_plain || base.contains('\\') {
        return Ok(None);
    }
    if base.contains('/') && models_dir.join(base).is_dir() {
        return only_model(&models_dir.join(base), quant).map(Some);
    }
    let mut matches = models_in(models_dir).into_iter().filter(|path| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.eq_ignore_ascii_case(name) || served_name(path).eq_ignore_ascii_case(name)
    });
    match (matches.next(), matches.next()) {
        (Some(first), Some(second)) => {
            bail!("'{name}' may mean {} or {}; write the path", first.display(), second.display())
        }
        (first, _) => Ok(first),
    }
}

/// The one model of `folder`, of those whose file names hold `quant`.
fn only_model(folder: &Path, quant: Option<&str>) -> Result<PathBuf> {
    let models = models_in(folder);
    let fits = |path: &&PathBuf| {
        let name = served_name(path).to_ascii_lowercase();
        quant.is_none_or(|quant| name.ends_with(&quant.to_ascii_lowercase()))
    };
    let fitting: Vec<&PathBuf> = models.iter().filter(fits).collect();
    match fitting.as_slice() {
        [model] => Ok((*model).clone()),
        [] => bail!("{} has no such model", folder.display()),
        several => {
            let lines: Vec<String> =
                several.iter().map(|path| format!("  {}", path.display())).collect();
            bail!("{} has several models; name one of\n{}", folder.display(), lines.join("\n"))
        }
    }
}

fn collect(folder: &Path, depth: usize, models: &mut Vec<PathBuf>) {
    let num_found = models.len();
    let mut has_safetensors = false;
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if depth > 1 && !name.starts_with('.') {
                collect(&path, depth - 1, models);
            }
        } else if path.extension().is_some_and(|ending| ending == "gguf")
            && !name.starts_with("mmproj")
            && SplitName::parse(&name).is_none_or(|s| s.index == 0)
        {
            models.push(path);
        } else {
            has_safetensors |= path.extension().is_some_and(|ending| ending == "safetensors");
        }
    }
    let has_files = models[num_found..].iter().any(|model| model.parent() == Some(folder));
    if has_safetensors && !has_files && folder.join("config.json").is_file() {
        models.push(folder.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_files() {
        let root = std::env::temp_dir().join(format!("quire-models-{}", std::process::id()));
        for file in [
            "one.Q8_0.gguf",
            "org/repo/big-Q4_K_M-00001-of-00002.gguf",
            "org/repo/big-Q4_K_M-00002-of-00002.gguf",
            "org/two/m-Q4_0.gguf",
            "org/two/m-Q8_0.gguf",
            "org/whole/config.json",
            "org/whole/model.safetensors",
            "org/weights/model.safetensors",
            "notes.txt",
        ] {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        assert_eq!(models_in(&root).len(), 5);
        let found = |name: &str| {
            let path = find(Some(name), &root).ok()?;
            Some(path.strip_prefix(&root).unwrap().to_string_lossy().into_owned())
        };
        assert_eq!(found("ONE.q8_0").as_deref(), Some("one.Q8_0.gguf"));
        assert_eq!(found("one.Q8_0.gguf").as_deref(), Some("one.Q8_0.gguf"));
        let first = "org/repo/big-Q4_K_M-00001-of-00002.gguf";
        assert_eq!(found("org/repo").as_deref(), Some(first));
        assert_eq!(found("big-Q4_K_M").as_deref(), Some(first));
        assert_eq!(found(root.join("org/repo").to_str().unwrap()).as_deref(), Some(first));
        assert_eq!(found("org/two:q8_0").as_deref(), Some("org/two/m-Q8_0.gguf"));
        assert_eq!(found("org/whole").as_deref(), Some("org/whole"));
        assert_eq!(found("WHOLE").as_deref(), Some("org/whole"));
        assert_eq!(found(root.join("org/whole/.").to_str().unwrap()).as_deref(), Some("org/whole"));
        for name in [
            "",
            "two",
            "org/weights",
            "../x",
            "org/../one.Q8_0",
            "org/two",
            "org/two:Q2_K",
            "notes.txt",
        ] {
            assert_eq!(found(name), None, "{name:?}");
        }
        let error = find(None, &root).unwrap_err().to_string();
        assert!(error.contains("make model") && error.contains("quire pull"), "{error}");
        let error = find(Some("org/two"), &root).unwrap_err().to_string();
        assert!(error.contains("m-Q4_0.gguf") && error.contains("m-Q8_0.gguf"), "{error}");
        assert_eq!(served_name(&root.join(first)), "big-Q4_K_M");
        std::fs::remove_dir_all(&root).unwrap();
    }
}
