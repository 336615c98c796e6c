//! Calls that are JSON: an object with a name and arguments.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::RawCall;
use super::cursor::{Scan, Stop};

/// Other fields would be lost.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonCall<'a> {
    name: String,
    #[serde(borrow, alias = "parameters")]
    arguments: Option<&'a RawValue>,
    id: Option<String>,
    r#type: Option<String>,
}

/// The call that `text` is. Its arguments stay as the model wrote them.
pub(super) fn call(text: &str) -> Scan<RawCall> {
    let call: JsonCall<'_> = serde_json::from_str(text).map_err(|_| Stop::Malformed)?;
    if call.r#type.is_some_and(|kind| kind != "function") {
        return Err(Stop::Malformed);
    }
    let arguments = match call.arguments {
        None => "{}".to_owned(),
        Some(raw) => arguments(raw.get())?,
    };
    Ok(RawCall { id: call.id, name: call.name, arguments })
}

/// Calls in a list.
pub(super) fn calls(text: &str) -> Scan<Vec<RawCall>> {
    let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| Stop::Malformed)?;
    if items.is_empty() {
        return Err(Stop::Malformed);
    }
    items.into_iter().map(|item| call(item.get())).collect()
}

/// An object as it is, or as the string that some models make of it; nothing is an empty one.
pub(super) fn arguments(text: &str) -> Scan<String> {
    let text = text.trim();
    let unquoted = match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str(text).map_err(|_| Stop::Malformed)?,
        _ => text.to_owned(),
    };
    let object = if unquoted == "null" { "{}" } else { unquoted.trim() };
    let is_object = object.starts_with('{') && serde_json::from_str::<Value>(object).is_ok();
    if is_object { Ok(object.to_owned()) } else { Err(Stop::Malformed) }
}

/// Adds an argument. A second one of the same name would be lost.
pub(super) fn put(arguments: &mut Map<String, Value>, key: &str, value: Value) -> Scan<()> {
    match arguments.insert(key.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(Stop::Malformed),
    }
}
