//! Which of a repository's files to download.

use anyhow::{Result, bail};
use quire_engine::weights::gguf::SplitName;

use super::directory::directory_files;
use super::hub::HubFile;
use super::name::{ModelName, Selector};

/// The files of one model: one, or all parts of a split one in their order; of a repository without GGUF, those of a
/// directory with safetensors.
pub(crate) fn choose_files<'a>(name: &ModelName, files: &'a [HubFile]) -> Result<Vec<&'a HubFile>> {
    let models = group_models(files);
    if models.is_empty() {
        if name.selector == Selector::Only {
            return directory_files(name, files);
        }
        bail!("{} has no GGUF file; look for a repository with GGUF in its name", name.id());
    }
    let fits = |model: &&Model| match &name.selector {
        Selector::Only => !is_companion(&model.stem),
        Selector::Quant(quant) => !is_companion(&model.stem) && ends_with_quant(&model.stem, quant),
        Selector::File(file) => model.files.iter().any(|part| part.path == *file),
    };
    let mut fitting = models.iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(model), None) => check_parts(model).map(|()| model.files.clone()),
        (None, _) => bail!("{} has no such file; it has\n{}", name.id(), list(name, &models)),
        (Some(_), Some(_)) => {
            bail!("{} has several models; name one of\n{}", name.id(), list(name, &models))
        }
    }
}

struct Model<'a> {
    /// The path without `.gguf` and without the part's number.
    stem: String,
    /// As many as the names say, where all are there.
    num_parts: u64,
    files: Vec<&'a HubFile>,
}

fn group_models(files: &[HubFile]) -> Vec<Model<'_>> {
    let mut models: Vec<Model> = Vec::new();
    let mut sorted: Vec<&HubFile> = files.iter().collect();
    sorted.sort_by(|a, b| a.path.cmp(&b.path));
    for file in sorted {
        let (folder, base) = match file.path.rsplit_once('/') {
            Some((folder, base)) => (Some(folder), base),
            None => (None, file.path.as_str()),
        };
        let Some(whole) = base.strip_suffix(".gguf") else { continue };
        let (stem, num_parts) = match SplitName::parse(base) {
            Some(split) => (split.model.clone(), split.count),
            None => (whole.to_owned(), 1),
        };
        let stem = folder.map_or(stem.clone(), |folder| format!("{folder}/{stem}"));
        match models.iter_mut().find(|model| model.stem == stem && model.num_parts == num_parts) {
            Some(model) => model.files.push(file),
            None => models.push(Model { stem, num_parts, files: vec![file] }),
        }
    }
    models
}

fn check_parts(model: &Model) -> Result<()> {
    let (found, num_parts) = (model.files.len() as u64, model.num_parts);
    if found != num_parts {
        bail!("{}: the hub has {found} of its {num_parts} parts", model.stem);
    }
    Ok(())
}

/// Image encoders and calibration data lie beside models and are none.
fn is_companion(stem: &str) -> bool {
    let base = stem.rsplit('/').next().unwrap_or(stem).to_ascii_lowercase();
    base.contains("mmproj") || base.contains("imatrix")
}

/// `model-Q4_K_M` ends with `Q4_K_M`, and not with `K_M`.
fn ends_with_quant(stem: &str, quant: &str) -> bool {
    let (stem, quant) = (stem.to_ascii_lowercase(), quant.to_ascii_lowercase());
    let Some(rest) = stem.strip_suffix(&quant) else { return false };
    rest.is_empty() || rest.ends_with(['-', '.', '/'])
}

fn list(name: &ModelName, models: &[Model]) -> String {
    let lines: Vec<String> =
        models.iter().map(|model| format!("  {}:{}", name.id(), model.files[0].path)).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(name: &str, paths: &[&str]) -> Result<Vec<String>> {
        let files: Vec<HubFile> = paths
            .iter()
            .map(|path| HubFile { path: (*path).into(), ..HubFile::default() })
            .collect();
        let chosen = choose_files(&name.parse()?, &files)?;
        Ok(chosen.into_iter().map(|file| file.path.clone()).collect())
    }

    const SEVERAL: [&str; 7] = [
        "README.md",
        "m-Q4_K_M.gguf",
        "m-UD-Q4_K_M.gguf",
        "m-Q8_0.gguf",
        "mmproj-m-f16.gguf",
        "BF16/m-BF16-00002-of-00002.gguf",
        "BF16/m-BF16-00001-of-00002.gguf",
    ];

    #[test]
    fn one_model_needs_no_word() {
        assert_eq!(choose("o/r", &["README.md", "m.gguf", "mmproj.gguf"]).unwrap(), ["m.gguf"]);
    }

    #[test]
    fn a_quantization_or_a_file_picks_one() {
        assert_eq!(choose("o/r:q8_0", &SEVERAL).unwrap(), ["m-Q8_0.gguf"]);
        assert_eq!(choose("o/r:UD-Q4_K_M", &SEVERAL).unwrap(), ["m-UD-Q4_K_M.gguf"]);
        assert_eq!(choose("o/r:m-Q4_K_M.gguf", &SEVERAL).unwrap(), ["m-Q4_K_M.gguf"]);
        assert_eq!(choose("o/r:mmproj-m-f16.gguf", &SEVERAL).unwrap(), ["mmproj-m-f16.gguf"]);
    }

    #[test]
    fn parts_come_together_and_in_order() {
        let parts = ["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"];
        assert_eq!(choose("o/r:BF16", &SEVERAL).unwrap(), parts);
        let error = choose("o/r", &parts[..1]).unwrap_err().to_string();
        assert!(error.contains("1 of its 2 parts"), "{error}");
    }

    #[test]
    fn errors_list_what_there_is() {
        for name in ["o/r", "o/r:Q2_K", "o/r:K_M", "o/r:Q4_K_M", "o/r:x.gguf"] {
            let error = choose(name, &SEVERAL).unwrap_err().to_string();
            assert!(error.contains("o/r:m-Q8_0.gguf") && !error.contains("README"), "{error}");
        }
        assert!(choose("o/r", &["model.safetensors"]).is_err());
    }
}
