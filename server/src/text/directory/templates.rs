//! Where a directory keeps its chat templates: files of their own, or tokenizer_config.json.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{DirectoryError, files};

/// The name of the template that a model has for conversations without tools.
const DEFAULT: &str = "default";
const MAX_TEMPLATES: usize = 64;

/// The templates by name. A file of its own counts more than tokenizer_config.json.
pub(super) fn read(
    directory: &Path,
    tokenizer_config: &Value,
) -> Result<BTreeMap<String, String>, DirectoryError> {
    let mut templates = BTreeMap::new();
    match &tokenizer_config["chat_template"] {
        Value::String(source) => {
            templates.insert(DEFAULT.to_owned(), source.clone());
        }
        Value::Array(entries) => {
            let named = |entry: &Value| {
                let name = entry["name"].as_str()?.to_owned();
                Some((name, entry["template"].as_str()?.to_owned()))
            };
            templates.extend(entries.iter().take(MAX_TEMPLATES).filter_map(named));
        }
        _ => {}
    }
    if let Some(value) = files::json(&directory.join("chat_template.json"), files::MAX_BYTES)?
        && let Some(source) = value["chat_template"].as_str()
    {
        templates.insert(DEFAULT.to_owned(), source.to_owned());
    }
    if let Some(source) = files::text(&directory.join("chat_template.jinja"), files::MAX_BYTES)? {
        templates.insert(DEFAULT.to_owned(), source);
    }
    let Ok(more) = fs::read_dir(directory.join("additional_chat_templates")) else {
        return Ok(templates);
    };
    for path in more.flatten().map(|entry| entry.path()).take(MAX_TEMPLATES) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|ending| ending == "jinja")
            && let Some(source) = files::text(&path, files::MAX_BYTES)?
        {
            templates.insert(name, source);
        }
    }
    Ok(templates)
}
