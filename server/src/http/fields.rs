//! The top-level fields of a JSON body, each parsed when asked for, so that every error knows its field.

use std::collections::BTreeMap;
use std::fmt;

use quire_engine::request::TokenId;
use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::ApiError;

/// Fields of one object.
const MAX_FIELDS: usize = 1 << 10;

/// Commas, colons and brackets in one field: parsed, each may become two hundred bytes.
const MAX_MARKS: usize = 1 << 18;

/// What every value inside another costs at least one of.
pub(crate) const ALL_MARKS: &str = ",:[{";

/// The longest of what a field without support may have, with blanks.
const MAX_NEUTRAL_BYTES: usize = 64;

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

/// A prompt, or several: texts, or what they are as tokens.
pub enum TextsOrIds {
    Text(String),
    Texts(Vec<String>),
    Ids(Vec<TokenId>),
    IdLists(Vec<Vec<TokenId>>),
}

impl TextsOrIds {
    /// Parses each kind as what it is: one after the other, as serde tries them, a number takes 32 bytes.
    fn parse(json: &str) -> Option<Self> {
        let mut begin = json.bytes().filter(|byte| !byte.is_ascii_whitespace());
        match (begin.next()?, begin.next()?) {
            (b'[', b'[') => serde_json::from_str(json).ok().map(Self::IdLists),
            (b'[', b'"') => serde_json::from_str(json).ok().map(Self::Texts),
            (b'[', _) => serde_json::from_str(json).ok().map(Self::Ids),
            _ => serde_json::from_str(json).ok().map(Self::Text),
        }
    }
}

impl<'a> Fields<'a> {
    /// Splits `body`, which must be a JSON object. Of duplicate fields the last one counts.
    pub fn parse(body: &'a str) -> Result<Self, ApiError> {
        match serde_json::from_str(body) {
            Ok(RawFields(raw)) => Ok(Self {
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
        check_marks(name, raw, ALL_MARKS)?;
        serde_json::from_str(raw.get())
            .map(Some)
            .map_err(|_| ApiError::invalid(name, format!("{name} must be {expected}")))
    }

    /// As many as there are: an id takes no more than it did.
    pub fn take_ids(&mut self, name: &'static str) -> Result<Option<Vec<TokenId>>, ApiError> {
        let Some(raw) = self.take_raw(name) else { return Ok(None) };
        let ids = serde_json::from_str(raw.get()).map(Some);
        ids.map_err(|_| ApiError::invalid(name, format!("{name} must be a list of token ids")))
    }

    /// A prompt, or several.
    pub fn take_texts_or_ids(
        &mut self,
        name: &'static str,
    ) -> Result<Option<TextsOrIds>, ApiError> {
        let Some(raw) = self.take_raw(name) else { return Ok(None) };
        // Of ids only lists are many times their bytes.
        let has_texts = raw.get().contains('"');
        check_marks(name, raw, if has_texts { ALL_MARKS } else { "[" })?;
        let expected = "a string, a list of strings, a list of token ids, or a list of such lists";
        let invalid = || ApiError::invalid(name, format!("{name} must be {expected}"));
        TextsOrIds::parse(raw.get()).map(Some).ok_or_else(invalid)
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
            let is_short = raw.get().len() <= MAX_NEUTRAL_BYTES;
            let value: Option<Value> =
                is_short.then(|| serde_json::from_str(raw.get()).ok()).flatten();
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

struct RawFields<'a>(BTreeMap<String, &'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for RawFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor).map(Self)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = BTreeMap<String, &'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some((name, value)) = map.next_entry()? {
            fields.insert(name, value);
            if fields.len() > MAX_FIELDS {
                return Err(A::Error::custom(format!("over {MAX_FIELDS} fields")));
            }
        }
        Ok(fields)
    }
}

/// Whether `raw` has so few of `marks` outside of its texts that it may be parsed.
pub(crate) fn check_marks(name: &'static str, raw: &RawValue, marks: &str) -> Result<(), ApiError> {
    let json = raw.get();
    // Most that is long is one text.
    if json.len() <= MAX_MARKS || json.starts_with('"') {
        return Ok(());
    }
    let (mut count, mut is_text, mut is_escaped) = (0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_text = !is_text,
            _ => count += usize::from(!is_text && marks.as_bytes().contains(&byte)),
        }
    }
    if count > MAX_MARKS {
        let message = format!("{name} has over {MAX_MARKS} values");
        return Err(ApiError::invalid(name, message));
    }
    Ok(())
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
    use super::{Fields, MAX_FIELDS, MAX_MARKS, TextsOrIds};

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

    #[test]
    fn prompts_are_of_four_kinds() {
        let cases = [
            (r#""a""#, "Text"),
            (r#" [ "a", "[" ]"#, "Texts"),
            ("[1, 2]", "Ids"),
            ("[ ]", "Ids"),
            ("\n[ [1], []]", "IdLists"),
        ];
        for (json, kind) in cases {
            let body = format!(r#"{{"prompt": {json}}}"#);
            let given = Fields::parse(&body).unwrap().take_texts_or_ids("prompt").unwrap();
            let found = match given.unwrap() {
                TextsOrIds::Text(_) => "Text",
                TextsOrIds::Texts(_) => "Texts",
                TextsOrIds::Ids(_) => "Ids",
                TextsOrIds::IdLists(_) => "IdLists",
            };
            assert_eq!(found, kind, "{json}");
        }
        for json in ["1", "{}", "[1, \"a\"]", "[\"a\", 1]", "[[1], 1]", "[-1]", "[[[]]]", "true"] {
            let body = format!(r#"{{"prompt": {json}}}"#);
            let error = Fields::parse(&body).unwrap().take_texts_or_ids("prompt").err();
            assert!(
                error.is_some_and(|error| error.message.contains("must be a string")),
                "{json}"
            );
        }
    }

    /// What is small in transit and huge when it is parsed is not parsed.
    #[test]
    fn values_are_counted_before_they_are_parsed() {
        let many = |open: &str, entry: &str, close: &str| {
            format!(r#"{{"a": {open}{}{entry}{close}}}"#, format!("{entry},").repeat(MAX_MARKS))
        };
        let take = |body: &str| {
            let mut fields = Fields::parse(body).unwrap();
            fields
                .take::<serde_json::Value>("a", "a value")
                .map(drop)
                .map_err(|error| error.message)
        };
        for (open, entry, close) in [("[", "1", "]"), ("[", "{}", "]"), ("{", r#""":1"#, "}")] {
            let error = take(&many(open, entry, close)).unwrap_err();
            assert!(error.contains("a has over 262144 values"), "{error}");
        }
        take(&format!(r#"{{"a": ["{}"]}}"#, r#"\",:"#.repeat(MAX_MARKS))).unwrap();
        let ids = many("[", "1", "]");
        assert_eq!(
            Fields::parse(&ids).unwrap().take_ids("a").unwrap().unwrap().len(),
            MAX_MARKS + 1
        );
        assert!(Fields::parse(&ids).unwrap().take_texts_or_ids("a").is_ok());
        assert!(Fields::parse(&many("[", "[]", "]")).unwrap().take_texts_or_ids("a").is_err());
        assert!(Fields::parse(&many("[", r#""""#, "]")).unwrap().take_texts_or_ids("a").is_err());
        let fields: Vec<String> = (0..=MAX_FIELDS).map(|name| format!(r#""{name}":1"#)).collect();
        let error = Fields::parse(&format!("{{{}}}", fields.join(","))).err().unwrap();
        assert!(error.message.contains("over 1024 fields"), "{}", error.message);
    }
}
