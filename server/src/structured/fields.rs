//! HTTP's names for structured output: OpenAI's `response_format`, vLLM's `structured_outputs` and its older fields.

use serde_json::{Map, Value};

use super::{Kind, StructuredOutput};
use crate::error::{ApiError, shortened};
use crate::http::fields::Fields;

const RESPONSE_FORMAT: &str = "response_format";
const STRUCTURED_OUTPUTS: &str = "structured_outputs";

/// What one of the fields asks for; several that ask for something are an error.
pub(crate) fn take(fields: &mut Fields<'_>) -> Result<Option<StructuredOutput>, ApiError> {
    let asked = [take_response_format(fields)?, take_structured_outputs(fields)?];
    let mut asked: Vec<StructuredOutput> = asked.into_iter().flatten().collect();
    asked.extend(take_guided(fields)?);
    match asked.as_slice() {
        [] => Ok(None),
        [_] => Ok(asked.pop()),
        [first, second, ..] => {
            let (first, second) = (first.field, second.field);
            let message = format!("only one of {first} and {second} may be given");
            Err(ApiError::invalid(second, message))
        }
    }
}

fn take_response_format(fields: &mut Fields<'_>) -> Result<Option<StructuredOutput>, ApiError> {
    const FIELD: &str = RESPONSE_FORMAT;
    let Some(mut format) = take_object(fields, FIELD)? else { return Ok(None) };
    let kind = match format.get("type").and_then(Value::as_str) {
        Some("text") => return Ok(None),
        Some("json_object") => Kind::JsonObject,
        Some("json_schema") => {
            let missing = || {
                let message = "response_format.json_schema.schema is missing: a JSON schema";
                ApiError::invalid(FIELD, message)
            };
            let Some(Value::Object(mut described)) = format.remove("json_schema") else {
                return Err(missing());
            };
            // Followed whether `strict` or not.
            Kind::Json(
                described
                    .remove("schema")
                    .filter(|schema| !schema.is_null())
                    .ok_or_else(missing)?,
            )
        }
        Some("structural_tag") => Kind::StructuralTag(Value::Object(format)),
        _ => {
            let message =
                "response_format.type must be text, json_object, json_schema or structural_tag";
            return Err(ApiError::invalid(FIELD, message));
        }
    };
    Ok(Some(StructuredOutput::new(FIELD, kind)))
}

fn take_structured_outputs(fields: &mut Fields<'_>) -> Result<Option<StructuredOutput>, ApiError> {
    const FIELD: &str = STRUCTURED_OUTPUTS;
    let Some(given) = take_object(fields, FIELD)? else { return Ok(None) };
    let (mut kinds, mut is_compact) = (Vec::new(), false);
    for (name, value) in given {
        match (name.as_str(), value) {
            (_, Value::Null)
            | ("json_object" | "disable_additional_properties", Value::Bool(false)) => {}
            ("json_object", Value::Bool(true)) => kinds.push(Kind::JsonObject),
            ("json", value) => kinds.push(schema(FIELD, value)?),
            ("regex", Value::String(regex)) => kinds.push(Kind::Regex(regex)),
            ("grammar", Value::String(grammar)) => kinds.push(Kind::Grammar(grammar)),
            ("structural_tag", Value::String(text)) => {
                kinds.push(Kind::of_structural_tag(FIELD, &text)?);
            }
            ("structural_tag", tag @ Value::Object(_)) => kinds.push(Kind::StructuralTag(tag)),
            ("choice", value) => kinds.push(Kind::Choice(choices(FIELD, value)?)),
            ("disable_any_whitespace", Value::Bool(value)) => is_compact = value,
            (name, _) => {
                let name = shortened(name);
                let message =
                    format!("structured_outputs.{name} is not supported or not of its type");
                return Err(ApiError::invalid(FIELD, message));
            }
        }
    }
    match kinds.len() {
        1 => {
            let own = kinds.pop().map(|kind| StructuredOutput::new(FIELD, kind));
            Ok(own.map(|own| StructuredOutput { is_compact, ..own }))
        }
        count => {
            let message = format!(
                "structured_outputs must have one of json, json_object, regex, choice, grammar and \
                 structural_tag, not {count}"
            );
            Err(ApiError::invalid(FIELD, message))
        }
    }
}

/// vLLM's names until 0.11.
fn take_guided(fields: &mut Fields<'_>) -> Result<Vec<StructuredOutput>, ApiError> {
    let mut asked = Vec::new();
    let mut add = |field, kind| asked.push(StructuredOutput::new(field, kind));
    if let Some(value) = fields.take("guided_json", "a JSON schema")? {
        add("guided_json", schema("guided_json", value)?);
    }
    if let Some(regex) = fields.take_string("guided_regex")? {
        add("guided_regex", Kind::Regex(regex));
    }
    if let Some(value) = fields.take("guided_choice", "a list of strings")? {
        add("guided_choice", Kind::Choice(choices("guided_choice", value)?));
    }
    if let Some(grammar) = fields.take_string("guided_grammar")? {
        add("guided_grammar", Kind::Grammar(grammar));
    }
    // There is one.
    fields.take_string("guided_decoding_backend")?;
    Ok(asked)
}

fn take_object(
    fields: &mut Fields<'_>,
    field: &'static str,
) -> Result<Option<Map<String, Value>>, ApiError> {
    fields.take(field, "an object")
}

/// A schema, or the text of one.
fn schema(field: &'static str, value: Value) -> Result<Kind, ApiError> {
    match value {
        Value::String(text) => Kind::of_schema(field, &text),
        value => Ok(Kind::Json(value)),
    }
}

fn choices(field: &'static str, value: Value) -> Result<Vec<String>, ApiError> {
    serde_json::from_value(value)
        .map_err(|_| ApiError::invalid(field, format!("{field} must be a list of strings")))
}
