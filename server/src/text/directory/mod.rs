//! What the files beside safetensors say about text: tokenizer, chat templates, how to sample.

mod files;
mod pieces;
mod pre_tokenizer;
mod special;
mod templates;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::guard::guarded;
use super::tokenizer::TokenizerConfig;

/// The text files of a model directory, read and understood.
pub struct TextFiles {
    pub tokenizer: TokenizerConfig,
    /// The chat templates by name; `default` is the model's own.
    pub templates: BTreeMap<String, String>,
    /// generation_config.json, or null.
    pub generation: Value,
}

/// A file of a model directory that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct DirectoryError {
    pub path: PathBuf,
    pub problem: String,
}

impl TextFiles {
    pub fn read(directory: &Path) -> Result<Self, DirectoryError> {
        let json = |name: &str, limit: u64| files::json(&directory.join(name), limit);
        let tokenizer_config =
            json("tokenizer_config.json", files::MAX_BYTES)?.unwrap_or(Value::Null);
        let model_config = json("config.json", files::MAX_BYTES)?.unwrap_or(Value::Null);
        let generation = json("generation_config.json", files::MAX_BYTES)?.unwrap_or(Value::Null);
        let path = directory.join("tokenizer.json");
        let error = |problem: String| DirectoryError { path: path.clone(), problem };
        let tokenizer = files::json(&path, files::MAX_TOKENIZER_BYTES)?;
        let tokenizer = tokenizer.ok_or_else(|| {
            error("is missing; tokenizers in other files are not supported".to_owned())
        })?;
        let tokenizer = guarded(|| tokenizer::read(tokenizer)).and_then(|read| read);
        let mut tokenizer = tokenizer.map_err(error)?;
        let roles = special::Roles {
            tokenizer_config: &tokenizer_config,
            model_config: &model_config,
            generation: &generation,
        };
        roles.apply(&mut tokenizer);
        let templates = templates::read(directory, &tokenizer_config)?;
        Ok(Self { tokenizer, templates, generation })
    }
}
