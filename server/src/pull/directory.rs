//! The files of a model that comes as a directory with safetensors.

use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::hub::HubFile;
use super::name::ModelName;

/// What says how the weights are to be read, and how text becomes tokens.
const NAMES: [&str; 10] = [
    "config.json",
    "hf_quant_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "model.safetensors.index.json",
];

/// Weights that are in other files once more, or that change those of another model.
const OTHER_WEIGHTS: [&str; 2] = ["consolidated", "adapter"];

/// The small files, then the weights; nothing else that lies in the repository.
pub(super) fn directory_files<'a>(
    name: &ModelName,
    files: &'a [HubFile],
) -> Result<Vec<&'a HubFile>> {
    let named = |wanted: fn(&str) -> bool| files.iter().filter(move |file| wanted(&file.path));
    let weights: Vec<&HubFile> = named(is_weights).collect();
    let name = name.id();
    if weights.is_empty() {
        let pickle = named(|path| has_ending(path, &["bin", "pth"])).next();
        if let Some(pickle) = pickle {
            bail!(
                "{name} has no GGUF file and no safetensors, only pickles ({}), which run code when they are read; \
                 look for a repository with safetensors or GGUF",
                pickle.path
            );
        }
        bail!(
            "{name} has no GGUF file and no safetensors; look for a repository with GGUF in its name"
        );
    }
    ensure!(
        named(|path| path == NAMES[0]).next().is_some(),
        "{name} has no GGUF file, and no {} beside its safetensors",
        NAMES[0]
    );
    Ok(named(is_text).chain(weights).collect())
}

fn is_weights(path: &str) -> bool {
    let is_other = OTHER_WEIGHTS.iter().any(|prefix| path.starts_with(prefix));
    has_ending(path, &["safetensors"]) && !path.contains('/') && !is_other
}

fn is_text(path: &str) -> bool {
    match path.split_once('/') {
        None => NAMES.contains(&path),
        Some((folder, file)) => {
            let is_template = folder == "additional_chat_templates" && has_ending(file, &["jinja"]);
            is_template || folder.ends_with("_Pooling") && file == "config.json"
        }
    }
}

fn has_ending(path: &str, endings: &[&str]) -> bool {
    let ending = Path::new(path).extension();
    ending.is_some_and(|ending| endings.iter().any(|wanted| ending == *wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(paths: &[&str]) -> Result<Vec<String>> {
        let file = |path: &&str| HubFile { path: (*path).into(), ..HubFile::default() };
        let files: Vec<HubFile> = paths.iter().map(file).collect();
        let chosen = directory_files(&"o/r".parse()?, &files)?;
        Ok(chosen.into_iter().map(|file| file.path.clone()).collect())
    }

    #[test]
    fn what_a_model_needs_and_nothing_else() {
        let files = [
            "README.md",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "config.json",
            "consolidated.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
            "modeling_x.py",
            "onnx/model.safetensors",
            "1_Pooling/config.json",
        ];
        let expected = [files[3], files[4], files[7], files[10], files[1], files[2]];
        assert_eq!(choose(&files).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_served_is_not_downloaded() {
        for (files, expected) in [
            (&["config.json", "pytorch_model.bin"][..], "only pickles (pytorch_model.bin)"),
            (&["model.safetensors"], "no config.json beside"),
            (&["config.json", "model.onnx"], "no safetensors; look"),
        ] {
            let error = choose(files).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("no GGUF file"), "{error}");
        }
    }
}
