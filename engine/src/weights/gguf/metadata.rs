//! The key-value pairs of a GGUF file, read by key and type.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::{GgufError, GgufProblem};
use super::value::{Number, StringArray, Value};

/// The longest list that one value per layer may grow to.
pub const MAX_PER_LAYER: usize = 65_536;

/// The metadata of one model. Every getter gives `Ok(None)` for an absent key and an error that names the key, the
/// type found and the type wanted for a value of another type. Integers of any width are accepted where they fit.
#[derive(Debug)]
pub struct Metadata {
    pub(super) path: PathBuf,
    pub(super) entries: BTreeMap<String, Value>,
}

impl Metadata {
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// All keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    pub fn is_array(&self, key: &str) -> bool {
        matches!(
            self.entries.get(key),
            Some(Value::Numbers(_) | Value::Strings(_) | Value::NotUtf8 { element: Some(_) })
        )
    }

    pub fn string(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mismatch(key, other, "a string")),
        }
    }

    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.number(key, "a u32", Number::integer)
    }

    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.number(key, "a u64", Number::integer)
    }

    pub fn i64(&self, key: &str) -> Result<Option<i64>, GgufError> {
        self.number(key, "an i64", Number::integer)
    }

    /// An f32, or an f64 rounded to one.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.number(key, "an f32", Number::float)
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.number(key, "a bool", Number::bool)
    }

    pub fn strings(&self, key: &str) -> Result<Option<&StringArray>, GgufError> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Strings(array)) => Ok(Some(array)),
            Some(other) => Err(self.mismatch(key, other, "an array of string")),
        }
    }

    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.numbers(key, "an array of f32", Number::float)
    }

    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        self.numbers(key, "an array of i32", Number::integer)
    }

    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        self.numbers(key, "an array of u32", Number::integer)
    }

    pub fn bools(&self, key: &str) -> Result<Option<Vec<bool>>, GgufError> {
        self.numbers(key, "an array of bool", Number::bool)
    }

    /// `count` values, one a layer: a scalar is repeated, an array must have that length.
    pub fn u32_or_u32s(&self, key: &str, count: usize) -> Result<Option<Vec<u32>>, GgufError> {
        self.per_layer(key, count, Self::u32, Self::u32s)
    }

    /// As [`Self::u32_or_u32s`].
    pub fn bool_or_bools(&self, key: &str, count: usize) -> Result<Option<Vec<bool>>, GgufError> {
        self.per_layer(key, count, Self::bool, Self::bools)
    }

    pub fn require_string(&self, key: &str) -> Result<&str, GgufError> {
        self.require(key, self.string(key)?)
    }

    pub fn require_u64(&self, key: &str) -> Result<u64, GgufError> {
        self.require(key, self.u64(key)?)
    }

    /// An error about the value of `key`, for a caller that finds it has the right type but makes no sense.
    pub fn invalid(&self, key: &str, text: impl Into<String>) -> GgufError {
        GgufProblem::key(key, text).at(&self.path)
    }

    fn require<T>(&self, key: &str, value: Option<T>) -> Result<T, GgufError> {
        value.ok_or_else(|| self.invalid(key, "is missing"))
    }

    fn number<T>(
        &self,
        key: &str,
        wanted: &str,
        convert: impl Fn(Number) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        let converted = if let Value::Number(number) = value { convert(*number) } else { None };
        converted.map(Some).ok_or_else(|| self.mismatch(key, value, wanted))
    }

    fn numbers<T>(
        &self,
        key: &str,
        wanted: &str,
        convert: impl Fn(Number) -> Option<T>,
    ) -> Result<Option<Vec<T>>, GgufError> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(found @ Value::Numbers(array)) => {
                array.collect(convert).map(Some).map_err(|index| {
                    let found = found.describe();
                    self.invalid(
                        key,
                        format!("is {found}, not {wanted}: element {index} does not fit"),
                    )
                })
            }
            Some(other) => Err(self.mismatch(key, other, wanted)),
        }
    }

    fn per_layer<T: Clone>(
        &self,
        key: &str,
        count: usize,
        scalar: impl Fn(&Self, &str) -> Result<Option<T>, GgufError>,
        array: impl Fn(&Self, &str) -> Result<Option<Vec<T>>, GgufError>,
    ) -> Result<Option<Vec<T>>, GgufError> {
        if count > MAX_PER_LAYER {
            return Err(self.invalid(key, format!("{count} layers are more than {MAX_PER_LAYER}")));
        }
        if !self.is_array(key) {
            return Ok(scalar(self, key)?.map(|value| vec![value; count]));
        }
        match array(self, key)? {
            Some(values) if values.len() != count => {
                Err(self.invalid(key, format!("has {} values for {count} layers", values.len())))
            }
            values => Ok(values),
        }
    }

    fn mismatch(&self, key: &str, found: &Value, wanted: &str) -> GgufError {
        self.invalid(key, format!("is {}, not {wanted}", found.describe()))
    }
}
