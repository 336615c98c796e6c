//! What can be said of a model without loading it: from its files' headers.

use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;
use quire_engine::ModelFiles;
use quire_engine::models::{spec_of, writes_text};
use quire_engine::weights::gguf::Metadata;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::model::INFILL_TOKENS;
use crate::text::TextFiles;

/// A model as lists show it.
#[derive(Clone, Debug)]
pub struct Card {
    /// As the files name it.
    pub architecture: String,
    /// Whether the files are GGUF; else safetensors.
    pub is_gguf: bool,
    pub num_parameters: u64,
    /// The element type that takes most of the bytes.
    pub quantization: String,
    pub num_bytes: u64,
    pub context_length: u64,
    pub hidden_size: u64,
    pub modified: SystemTime,
    /// 64 hexadecimal digits: of a model of the store those of its manifest; else of what its path, size and time come to, since
    /// nobody wants to wait until gigabytes are read.
    pub digest: String,
    /// The chat template's own text, where it has one.
    pub template: Option<String>,
    pub license: Option<String>,
    pub makes_embeddings: bool,
    /// It can fill in the middle of a text.
    pub can_insert: bool,
    /// Keys of the files to their values, lists without their entries.
    pub info: Map<String, Value>,
    /// Name, element type and number of elements of each tensor.
    pub tensors: Vec<(String, String, u64)>,
}

impl Card {
    /// Reads the headers of the model at `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let files = ModelFiles::open(path)?;
        let tensors = files.tensors();
        let spec = spec_of(&files)?;
        let architecture = files.architecture().unwrap_or("unknown").to_owned();
        let modified = files.path().metadata().and_then(|it| it.modified());
        let modified = modified.unwrap_or(SystemTime::UNIX_EPOCH);
        let mut card = Self {
            is_gguf: matches!(files, ModelFiles::Gguf(_)),
            num_parameters: tensors.iter().map(|tensor| tensor.num_elements).sum(),
            quantization: main_type(&files),
            num_bytes: files.num_bytes(),
            context_length: spec.context_length() as u64,
            hidden_size: spec.hidden_size() as u64,
            digest: stand_in_digest(files.path(), files.num_bytes(), modified),
            modified,
            template: None,
            license: None,
            makes_embeddings: !writes_text(&files, &spec),
            can_insert: false,
            info: Map::new(),
            tensors: tensors
                .iter()
                .map(|it| (it.name.to_owned(), it.type_name.to_owned(), it.num_elements))
                .collect(),
            architecture,
        };
        match &files {
            ModelFiles::Gguf(file) => card.take_gguf(file.metadata()),
            ModelFiles::Directory(_) | ModelFiles::Dummy(_) => card.take_directory(files.path()),
        }
        Ok(card)
    }

    fn take_gguf(&mut self, metadata: &Metadata) {
        let text = |key: &str| metadata.string(key).ok().flatten().map(str::to_owned);
        self.template = text("tokenizer.chat_template");
        self.license = text("general.license");
        let tokens = metadata.strings("tokenizer.ggml.tokens").ok().flatten();
        self.can_insert = tokens.is_some_and(|tokens| {
            let mut texts = tokens.iter();
            texts.any(|text| INFILL_TOKENS.iter().any(|[prefix, ..]| text == *prefix))
        });
        self.info = metadata.keys().map(|key| (key.to_owned(), value_of(metadata, key))).collect();
    }

    fn take_directory(&mut self, path: &Path) {
        let (name, length, hidden) = (&self.architecture, self.context_length, self.hidden_size);
        for (key, value) in [
            ("general.architecture".to_owned(), json!(name)),
            (format!("{name}.context_length"), json!(length)),
            (format!("{name}.embedding_length"), json!(hidden)),
        ] {
            self.info.insert(key, value);
        }
        let texts = TextFiles::read(path).ok();
        self.template = texts.and_then(|texts| texts.templates.get("default").cloned());
    }

    /// Whether the template has a place for what a conversation may bring.
    fn template_says(&self, words: &[&str]) -> bool {
        self.template.as_ref().is_some_and(|text| words.iter().any(|word| text.contains(word)))
    }

    /// What clients may ask of it, in Ollama's words.
    pub fn capabilities(&self) -> Vec<&'static str> {
        if self.makes_embeddings {
            return vec!["embedding"];
        }
        let mut all = vec!["completion"];
        all.extend(self.template_says(&["tools"]).then_some("tools"));
        all.extend(self.can_insert.then_some("insert"));
        all.extend(self.can_think().then_some("thinking"));
        all
    }

    pub fn can_think(&self) -> bool {
        self.template_says(&["enable_thinking", "reasoning_effort", "<think>", "thinking"])
    }

    /// `135M`, `1.5B`.
    pub fn parameter_size(&self) -> String {
        let count = self.num_parameters as f64;
        let (value, unit) = match self.num_parameters {
            0..1_000_000 => (count / 1e3, "K"),
            1_000_000..1_000_000_000 => (count / 1e6, "M"),
            _ => (count / 1e9, "B"),
        };
        let digits = usize::from(value < 10.0);
        format!("{value:.digits$}{unit}")
    }
}

fn value_of(metadata: &Metadata, key: &str) -> Value {
    if metadata.is_array(key) {
        return Value::Null;
    }
    let text = metadata.string(key).ok().flatten().map(Value::from);
    text.or_else(|| metadata.bool(key).ok().flatten().map(Value::from))
        .or_else(|| metadata.u64(key).ok().flatten().map(Value::from))
        .or_else(|| metadata.i64(key).ok().flatten().map(Value::from))
        .or_else(|| metadata.f32(key).ok().flatten().map(|value| json!(value)))
        .unwrap_or_default()
}

/// The element type that takes most of the model's bytes.
pub fn main_type(files: &ModelFiles) -> String {
    let mut bytes_of: std::collections::BTreeMap<&str, u64> = std::collections::BTreeMap::new();
    let tensors = files.tensors();
    for tensor in &tensors {
        *bytes_of.entry(tensor.type_name).or_default() += tensor.num_bytes;
    }
    let largest = bytes_of.into_iter().max_by_key(|&(_, bytes)| bytes);
    largest.map_or("no weights", |(name, _)| name).to_owned()
}

fn stand_in_digest(path: &Path, num_bytes: u64, modified: SystemTime) -> String {
    let since = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let text = format!("{}\0{num_bytes}\0{}", path.display(), since.as_nanos());
    hex(&Sha256::digest(text.as_bytes()))
}

/// Two lower-case digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
