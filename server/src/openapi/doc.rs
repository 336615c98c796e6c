//! What a route takes and gives, in the terms of JSON Schema.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::http::fields::NeutralOnly;

/// One route's page of the document.
pub(crate) struct Doc {
    pub summary: &'static str,
    /// Of the JSON body, in groups that routes share; none: there is no body.
    pub fields: &'static [&'static [Field]],
    /// Known fields without support.
    pub unsupported: &'static [&'static [NeutralOnly]],
    /// Known fields that change nothing.
    pub ignored: &'static [&'static str],
    /// The body is a file instead.
    pub takes_file: bool,
    pub answer: Answer,
}

/// One field of a body.
pub(crate) struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub text: &'static str,
    pub is_required: bool,
}

/// What a field may be.
pub(crate) enum Kind {
    Bool,
    Text,
    Texts,
    /// From the first to the last, both included.
    Integer(i64, i64),
    Number(f64, f64),
    /// Token ids.
    Ids,
    OneOf(&'static [&'static str]),
    /// A schema, as JSON.
    Schema(&'static str),
    /// An object, and what is not supported in it.
    Object(&'static [&'static [Field]], &'static [NeutralOnly]),
}

/// What a route answers with status 200.
pub(crate) enum Answer {
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// The whole, and what each event of a stream holds.
    JsonOrStream(fn(&mut SchemaGenerator) -> Schema, fn(&mut SchemaGenerator) -> Schema),
    /// JSON that is said to be an object and no more.
    Object,
    /// The same, or a stream of this content type.
    ObjectOrStream(&'static str),
    /// No body.
    Empty,
    /// Another content type.
    Text(&'static str),
    /// Only errors.
    Nothing,
}

/// An optional field.
pub(crate) const fn optional(name: &'static str, kind: Kind, text: &'static str) -> Field {
    Field { name, kind, text, is_required: false }
}

pub(crate) const fn required(name: &'static str, kind: Kind, text: &'static str) -> Field {
    Field { name, kind, text, is_required: true }
}

/// The schema of an answer's type.
pub(crate) fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

impl Kind {
    /// Without `null`, which an optional field may be too.
    fn schema(&self) -> Value {
        match *self {
            Self::Bool => json!({"type": "boolean"}),
            Self::Text => json!({"type": "string"}),
            Self::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Self::Integer(least, most) => {
                json!({"type": "integer", "minimum": least, "maximum": most})
            }
            Self::Number(least, most) => {
                json!({"type": "number", "minimum": least, "maximum": most})
            }
            Self::Ids => json!({
                "type": "array", "items": {"type": "integer", "minimum": 0, "maximum": u32::MAX},
            }),
            Self::OneOf(words) => json!({"type": "string", "enum": words}),
            Self::Schema(text) => {
                serde_json::from_str(text).expect("a schema of the source is JSON")
            }
            Self::Object(fields, unsupported) => object(fields, &[unsupported], &[]),
        }
    }

    /// In a few words, for the page.
    pub(crate) fn words(&self) -> String {
        match *self {
            Self::Bool => "boolean".into(),
            Self::Text => "string".into(),
            Self::Texts => "list of strings".into(),
            Self::Integer(least, most) if most >= i64::from(i32::MAX) => {
                format!("integer from {least}")
            }
            Self::Integer(least, most) => format!("integer, {least} to {most}"),
            Self::Number(least, most) => format!("number, {least} to {most}"),
            Self::Ids => "list of token ids".into(),
            Self::OneOf(words) => words.join(", "),
            Self::Schema(text) => {
                let schema: Value = serde_json::from_str(text).unwrap_or_default();
                schema["title"].as_str().unwrap_or("JSON").to_owned()
            }
            Self::Object(fields, _) => {
                let names =
                    fields.iter().copied().flatten().map(|field| format!("`{}`", field.name));
                format!("object of {}", names.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl Field {
    fn schema(&self) -> Value {
        let schema = self.kind.schema();
        if self.is_required {
            return with_text(schema, self.text);
        }
        with_text(json!({"anyOf": [schema, {"type": "null"}]}), self.text)
    }
}

impl Doc {
    /// A route without a body.
    pub(super) const fn plain(summary: &'static str, answer: Answer) -> Self {
        Self { summary, fields: &[], unsupported: &[], ignored: &[], takes_file: false, answer }
    }

    /// The schema of the body; `None` where there is none.
    pub(super) fn body(&self) -> Option<Value> {
        let has_body = !self.fields.is_empty();
        has_body.then(|| object(self.fields, self.unsupported, self.ignored))
    }
}

fn object(fields: &[&[Field]], unsupported: &[&[NeutralOnly]], ignored: &[&str]) -> Value {
    let fields = || fields.iter().copied().flatten();
    let mut properties = Map::new();
    for field in fields() {
        properties.insert(field.name.into(), field.schema());
    }
    for NeutralOnly(name, neutral) in unsupported.iter().copied().flatten() {
        properties.insert((*name).into(), neutral_schema(neutral));
    }
    for &name in ignored {
        properties.insert(name.into(), with_text(json!({}), "Not used."));
    }
    let needed: Vec<&str> =
        fields().filter(|field| field.is_required).map(|field| field.name).collect();
    json!({"type": "object", "properties": properties, "required": needed})
}

fn neutral_schema(neutral: &[&str]) -> Value {
    let parsed = neutral.iter().filter_map(|json| serde_json::from_str::<Value>(json).ok());
    let values: Vec<Value> = parsed.chain([Value::Null]).collect();
    with_text(json!({"enum": values}), "Not supported: other values are refused.")
}

fn with_text(mut schema: Value, text: &str) -> Value {
    schema["description"] = text.into();
    schema
}
