//! The top-level fields of a JSON body, each parsed when asked for, so that every error knows its field.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::ApiError;

/// The fields not taken yet. `null` counts as absent.
pub struct Fields<'a> {
    raw: BTreeMap<String, &'a RawValue>,
    #[cfg(test)]
    body: &'a str,
}

/// A known field that has one supported value only: its name and the values, as JSON, that ask for nothing.
pub struct NeutralOnly(pub &'static str, pub &'static [&'static str]);

/// A text, or a list of texts.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

impl<'a> Fields<'a> {
    /// Splits `body`, which must be a JSON object. Of duplicate fields the last one counts.
    pub fn parse(body: &'a str) -> Result<Self, ApiError> {
        match serde_json::from_str(body) {
            Ok(raw) => Ok(Self {
                raw,
                #[cfg(test)]
                body,
            }),
            Err(error) => {
                let mut invalid = ApiError::bad_request(format!("invalid JSON: {error}"));
                invalid.param = field_before(body, &error).map(Into::into);
                Err(invalid)
            }
        }
    }

    /// Any value whose type says all there is to check.
    pub fn take<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        expected: &str,
    ) -> Result<Option<T>, ApiError> {
        let Some(raw) = self.take_raw(name) else { return Ok(None) };
        serde_json::from_str(raw.get())
            .map(Some)
            .map_err(|_| ApiError::invalid(name, format!("{name} must be {expected}")))
    }

    pub fn take_bool(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        self.take(name, "true or false")
    }

    pub fn take_string(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        self.take(name, "a string")
    }

    /// A finite number.
    pub fn take_f32(&mut self, name: &'static str) -> Result<Option<f32>, ApiError> {
        let value: Option<f64> = self.take(name, "a finite number")?;
        Ok(value.map(|value| value as f32))
    }

    /// A whole number in `min..=max`; `3.0` is one too.
    pub fn take_integer(
        &mut self,
        name: &'static str,
        min: i64,
        max: i64,
    ) -> Result<Option<i64>, ApiError> {
        let Some(raw) = self.take_raw(name) else { return Ok(None) };
        match integer(raw.get()) {
            Some(value) if (min..=max).contains(&value) => Ok(Some(value)),
            _ => {
                let message = format!("{name} must be a whole number from {min} to {max}");
                Err(ApiError::invalid(name, message))
            }
        }
    }

    pub fn take_u32(&mut self, name: &'static str) -> Result<Option<u32>, ApiError> {
        Ok(self.take_integer(name, 0, i64::from(u32::MAX))?.map(|value| value as u32))
    }

    /// Whether the field is there, be it `null`.
    pub fn has(&self, name: &str) -> bool {
        self.raw.contains_key(name)
    }

    /// The field as it is written, which stays.
    pub fn peek_raw(&self, name: &str) -> Option<&'a RawValue> {
        self.raw.get(name).copied()
    }

    pub fn take_raw(&mut self, name: &str) -> Option<&'a RawValue> {
        #[cfg(test)]
        asked_fields::note(self.body, name);
        self.raw.remove(name).filter(|raw| raw.get() != "null")
    }

    /// Fails on the first of `known` whose value asks for something.
    pub fn reject_unsupported(&mut self, known: &[NeutralOnly]) -> Result<(), ApiError> {
        for NeutralOnly(name, neutral) in known {
            let Some(raw) = self.take_raw(name) else { continue };
            let value: Option<Value> = serde_json::from_str(raw.get()).ok();
            let asks_nothing = neutral
                .iter()
                .any(|json| serde_json::from_str(json).ok() == value && value.is_some());
            if !asks_nothing {
                return Err(ApiError::invalid(*name, format!("{name} is not supported")));
            }
        }
        Ok(())
    }

    /// Whatever is left is unknown: accepted, for clients that are ahead of this server.
    pub fn finish(self) {
        for name in self.raw.keys() {
            tracing::debug!(field = %crate::error::shortened(name), "unknown field ignored");
        }
    }
}

/// The names that a test's thread has asked for, by the body.
#[cfg(test)]
pub(crate) mod asked_fields {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    type Asked = BTreeMap<String, BTreeSet<String>>;

    thread_local! {
        static ASKED: RefCell<Asked> = const { RefCell::new(Asked::new()) };
    }

    pub(super) fn note(body: &str, name: &str) {
        ASKED.with_borrow_mut(|asked| {
            asked.entry(body.to_owned()).or_default().insert(name.to_owned())
        });
    }

    /// What was asked of each body since the last call.
    pub(crate) fn take() -> Asked {
        ASKED.take()
    }
}

fn integer(text: &str) -> Option<i64> {
    const EXACT: f64 = (1_i64 << 53) as f64;
    if let Ok(value) = serde_json::from_str::<i64>(text) {
        return Some(value);
    }
    let value: f64 = serde_json::from_str(text).ok()?;
    (value.fract() == 0.0 && value.abs() <= EXACT).then_some(value as i64)
}

/// The field whose value the parser stopped at: `{"temperature": NaN}` blames `temperature`.
fn field_before(body: &str, error: &serde_json::Error) -> Option<String> {
    let line_start: usize =
        body.split_inclusive('\n').take(error.line().checked_sub(1)?).map(str::len).sum();
    let bytes = body.as_bytes();
    let end = (line_start + error.column()).min(bytes.len());
    let colon = bytes[..end].iter().rposition(|&byte| byte == b':')?;
    let value = bytes[colon + 1..end].trim_ascii();
    let name_end = bytes[..colon].iter().rposition(|&byte| byte == b'"')?;
    let name_start = bytes[..name_end].iter().rposition(|&byte| byte == b'"')? + 1;
    let name = &bytes[name_start..name_end];
    let is_field = name.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'_');
    let is_scalar = !value.iter().any(|byte| matches!(byte, b'"' | b'{' | b'[' | b','));
    let is_named = bytes[name_end + 1..colon].trim_ascii().is_empty() && name.len() <= 64;
    if !(is_field && is_scalar && is_named) {
        return None;
    }
    String::from_utf8(name.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::Fields;

    #[test]
    fn errors_name_their_field() {
        let cases = [
            (r#"{"temperature": NaN}"#, Some("temperature")),
            (r#"{"model": "m", "top_p":-Infinity}"#, Some("top_p")),
            ("{\n \"a\": 1,\n \"top_k\" : +1}", Some("top_k")),
            (r#"{"a": "b"#, None),
            (r"[]", None),
            (r"", None),
            (r#"{"a": {"b": [}"#, None),
        ];
        for (body, param) in cases {
            let Err(error) = Fields::parse(body) else { panic!("accepted {body}") };
            assert_eq!(error.param.as_deref(), param, "{body}");
        }
    }

    #[test]
    fn numbers_are_exact_or_refused() {
        let body =
            r#"{"a": 3.0, "b": 3.5, "c": 1e300, "d": true, "e": "1", "f": null, "g": 4294967296}"#;
        let mut fields = Fields::parse(body).unwrap();
        assert_eq!(fields.take_u32("a").unwrap(), Some(3));
        for name in ["b", "c", "d", "e", "g"] {
            assert_eq!(fields.take_u32(name).unwrap_err().param.as_deref(), Some(name));
        }
        assert_eq!(fields.take_u32("f").unwrap(), None);
        assert_eq!(fields.take_u32("absent").unwrap(), None);
    }
}
