//! What sentence-transformers writes beside a model: which modules make an embedding of its hidden states.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::pooling::PoolingKind;
use crate::weights::json;

const MAX_BYTES: u64 = 1 << 20;

/// The modules of modules.json; everything is absent where that file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentenceConfig {
    pub pooling: Option<PoolingKind>,
    /// Whether embeddings get the length 1; `None`: not said.
    pub normalize: Option<bool>,
    /// Tokens of a text.
    pub max_seq_length: Option<u32>,
}

impl SentenceConfig {
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join("modules.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        let modules = json::read(&path, MAX_BYTES)?;
        let modules =
            modules.as_array().with_context(|| format!("{}: is no list", path.display()))?;
        let mut config = Self { normalize: Some(false), ..Self::default() };
        for module in modules {
            let kind = module["type"].as_str().unwrap_or_default();
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => config.max_seq_length = max_seq_length(directory)?,
                "Pooling" => config.pooling = Some(pooling(directory, &module["path"])?),
                "Normalize" => config.normalize = Some(true),
                _ => bail!("{}: the module {kind:?} is not supported", path.display()),
            }
        }
        Ok(config)
    }
}

/// Of sentence_bert_config.json.
fn max_seq_length(directory: &Path) -> anyhow::Result<Option<u32>> {
    let path = directory.join("sentence_bert_config.json");
    if !path.exists() {
        return Ok(None);
    }
    let length = json::read(&path, MAX_BYTES)?["max_seq_length"].as_u64();
    Ok(length.filter(|&length| length > 0).and_then(|length| u32::try_from(length).ok()))
}

/// The one mode of a pooling module that is on.
fn pooling(directory: &Path, folder: &Value) -> anyhow::Result<PoolingKind> {
    let folder = folder.as_str().unwrap_or("1_Pooling");
    let is_plain = folder.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    ensure!(is_plain, "modules.json: {folder:?} is no folder's name");
    let path = directory.join(folder).join("config.json");
    let config = json::read(&path, MAX_BYTES)?;
    let mut modes: Vec<&str> = config
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value)| key.starts_with("pooling_mode_") && value.as_bool() == Some(true))
        .map(|(key, _)| key.trim_start_matches("pooling_mode_"))
        .collect();
    modes.extend(config["pooling_mode"].as_str());
    match modes[..] {
        ["cls_token" | "cls"] => Ok(PoolingKind::Cls),
        ["mean_tokens" | "mean"] => Ok(PoolingKind::Mean),
        ["lasttoken" | "last"] => Ok(PoolingKind::Last),
        _ => bail!(
            "{}: pooling by {} is not supported; supported: cls_token, mean_tokens, lasttoken",
            path.display(),
            if modes.is_empty() { "nothing".to_owned() } else { modes.join(" and ") }
        ),
    }
}
