//! config.json: what a model directory says about its architecture.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value};

use crate::weights::json;

pub(super) const FILE: &str = "config.json";
const MODELOPT_FILE: &str = "hf_quant_config.json";
const MAX_BYTES: u64 = 16 << 20;
/// Largest value of any one dimension: keeps products far from overflow.
const MAX_DIMENSION: u64 = 1 << 24;

/// A config.json, read and unchanged.
pub struct ModelConfig {
    path: PathBuf,
    value: Map<String, Value>,
}

impl ModelConfig {
    pub(super) fn open(directory: &Path) -> anyhow::Result<Self> {
        Self::read(directory.join(FILE))
    }

    /// The file itself, whatever its name.
    pub(super) fn open_file(path: &Path) -> anyhow::Result<Self> {
        Self::read(path.to_owned())
    }

    /// The file that older releases of ModelOpt write about quantization, where it is there.
    pub(super) fn open_modelopt(directory: &Path) -> anyhow::Result<Option<Self>> {
        let path = directory.join(MODELOPT_FILE);
        if path.exists() { Self::read(path).map(Some) } else { Ok(None) }
    }

    fn read(path: PathBuf) -> anyhow::Result<Self> {
        match json::read(&path, MAX_BYTES)? {
            Value::Object(value) => Ok(Self { path, value }),
            _ => bail!("{}: is no JSON object", path.display()),
        }
    }

    /// The keys of the file's first level.
    pub fn top(&self) -> ConfigSection<'_> {
        ConfigSection { path: &self.path, prefix: String::new(), value: &self.value }
    }

    /// Whether the directory is of a classifier of texts, as rerankers are.
    pub fn is_classifier(&self) -> bool {
        let class = self.top().first_string("architectures").unwrap_or_default();
        class.ends_with("ForSequenceClassification")
    }

    /// The keys of the text model: `text_config` where there is one.
    pub fn text(&self) -> ConfigSection<'_> {
        let top = self.top();
        match self.value.get("text_config") {
            Some(Value::Object(value)) => {
                ConfigSection { prefix: "text_config.".to_owned(), value, ..top }
            }
            _ => top,
        }
    }
}

/// One object of a config.json. A key whose value is null counts as absent.
#[derive(Clone)]
pub struct ConfigSection<'a> {
    path: &'a Path,
    /// "text_config.", for messages.
    prefix: String,
    value: &'a Map<String, Value>,
}

impl<'a> ConfigSection<'a> {
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub fn string(&self, key: &str) -> anyhow::Result<Option<&'a str>> {
        self.typed(key, "a string", Value::as_str)
    }

    pub fn bool(&self, key: &str) -> anyhow::Result<Option<bool>> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub fn number(&self, key: &str) -> anyhow::Result<Option<f64>> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// A number that makes sense as a scale: finite and above 0.
    pub fn positive(&self, key: &str) -> anyhow::Result<Option<f32>> {
        let Some(value) = self.number(key)? else { return Ok(None) };
        let narrow = value as f32;
        ensure!(narrow.is_finite() && narrow > 0.0, "{} is {value}", self.name_of(key));
        Ok(Some(narrow))
    }

    pub fn require_positive(&self, key: &str) -> anyhow::Result<f32> {
        self.positive(key)?.with_context(|| self.missing(key))
    }

    /// A count in 1..=2^24; 0 counts as absent.
    pub fn optional_dimension(&self, key: &str) -> anyhow::Result<Option<usize>> {
        let Some(value) = self.typed(key, "a count", Value::as_u64)? else { return Ok(None) };
        ensure!(
            value <= MAX_DIMENSION,
            "{} is {value}, above the limit of {MAX_DIMENSION}",
            self.name_of(key)
        );
        Ok((value > 0).then_some(value as usize))
    }

    pub fn dimension(&self, key: &str) -> anyhow::Result<usize> {
        self.optional_dimension(key)?.with_context(|| self.missing(key))
    }

    /// The object under `key`.
    pub fn section(&self, key: &str) -> anyhow::Result<Option<ConfigSection<'a>>> {
        let value = self.typed(key, "an object", Value::as_object)?;
        let prefix = format!("{}{key}.", self.prefix);
        Ok(value.map(|value| ConfigSection { path: self.path, prefix, value }))
    }

    /// The array of strings under `key`.
    pub fn strings(&self, key: &str) -> anyhow::Result<Option<Vec<&'a str>>> {
        let strings = |value: &'a Value| value.as_array()?.iter().map(Value::as_str).collect();
        self.typed(key, "an array of strings", strings)
    }

    /// The array of counts under `key`.
    pub fn counts(&self, key: &str) -> anyhow::Result<Option<Vec<u64>>> {
        let counts = |value: &'a Value| value.as_array()?.iter().map(Value::as_u64).collect();
        self.typed(key, "an array of counts", counts)
    }

    /// An array of numbers.
    pub fn numbers(&self, key: &str) -> anyhow::Result<Option<Vec<f32>>> {
        let number = |value: &Value| value.as_f64().map(|number| number as f32);
        let numbers = |value: &'a Value| value.as_array()?.iter().map(number).collect();
        self.typed(key, "an array of numbers", numbers)
    }

    /// The first string of the array under `key`.
    pub fn first_string(&self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_array()?.first()?.as_str()
    }

    /// The size of groups along a row; null and −1 stand for whole rows.
    pub fn group_size(&self, key: &str) -> anyhow::Result<Option<usize>> {
        match self.number(key)? {
            Some(size) if size < 0.0 => Ok(None),
            _ => self.optional_dimension(key),
        }
    }

    /// An array of two counts.
    pub fn pair(&self, key: &str) -> anyhow::Result<Option<(usize, usize)>> {
        let Some(values) = self.typed(key, "an array", Value::as_array)? else { return Ok(None) };
        let counts: Option<Vec<u64>> = values.iter().map(Value::as_u64).collect();
        match counts.as_deref() {
            Some(&[rows, columns])
                if [rows, columns].iter().all(|n| (1..=MAX_DIMENSION).contains(n)) =>
            {
                Ok(Some((rows as usize, columns as usize)))
            }
            _ => bail!("{} is not two counts", self.name_of(key)),
        }
    }

    pub fn len(&self) -> usize {
        self.value.len()
    }

    pub fn is_empty(&self) -> bool {
        self.value.is_empty()
    }

    /// All objects in it.
    pub fn sections(&self) -> impl Iterator<Item = ConfigSection<'a>> {
        self.value.iter().filter_map(|(key, value)| {
            let prefix = format!("{}{key}.", self.prefix);
            Some(ConfigSection { path: self.path, prefix, value: value.as_object()? })
        })
    }

    /// Whether `key` is an object of objects: one for each kind of layer.
    pub fn is_nested(&self) -> bool {
        self.value.values().any(Value::is_object)
    }

    /// "config.json: text_config.rope_theta", with the path.
    pub fn name_of(&self, key: &str) -> String {
        format!("{}: {}{key}", self.path.display(), self.prefix)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let converted = convert(value);
        converted.map(Some).with_context(|| format!("{} is not {wanted}", self.name_of(key)))
    }

    fn missing(&self, key: &str) -> String {
        format!("{} is missing", self.name_of(key))
    }
}
