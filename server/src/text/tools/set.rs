//! The tools of a request: what a model may call, and how the arguments are typed.

use std::sync::Arc;

use serde_json::Value;

/// A function that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// The JSON schema of the arguments.
    pub parameters: Option<Value>,
    /// The arguments must match the schema.
    pub is_strict: bool,
}

/// The tools of one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolSet(pub Vec<Tool>);

/// Whether a model may or must call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    #[default]
    None,
    Auto,
    /// At least one call.
    Required,
    /// A call of this tool.
    Named(String),
}

/// What a request says of tools.
#[derive(Clone, Debug, Default)]
pub struct ToolRequest {
    pub tools: Arc<ToolSet>,
    pub choice: ToolChoice,
    /// Only one call is wanted.
    pub is_single: bool,
}

impl ToolRequest {
    /// Whether calls are looked for.
    pub fn is_active(&self) -> bool {
        self.choice != ToolChoice::None && !self.tools.0.is_empty()
    }
}

impl ToolSet {
    pub fn get(&self, name: &str) -> Option<&Tool> {
        self.0.iter().find(|tool| tool.name == name)
    }

    /// The schema of one argument.
    pub(super) fn schema_of(&self, name: &str, key: &str) -> Option<&Value> {
        self.get(name)?.parameters.as_ref()?.get("properties")?.get(key)
    }

    /// An argument that a model wrote without quotes, as what its schema says.
    pub(super) fn typed(&self, name: &str, key: &str, text: &str) -> Value {
        let string = || Value::String(text.to_owned());
        let Some(schema) = self.schema_of(name, key) else {
            return literal(text).unwrap_or_else(string);
        };
        let mut kinds = Kinds::default();
        kinds.add(schema, 0);
        if kinds.is_empty() {
            return literal(text).unwrap_or_else(string);
        }
        literal(text).filter(|value| kinds.takes(value)).unwrap_or_else(string)
    }
}

/// The types that a schema names.
#[derive(Default)]
struct Kinds(Vec<String>);

impl Kinds {
    fn add(&mut self, schema: &Value, depth: usize) {
        const MAX_DEPTH: usize = 8;
        match &schema["type"] {
            Value::String(kind) => self.0.push(kind.to_lowercase()),
            Value::Array(kinds) => {
                self.0.extend(kinds.iter().filter_map(Value::as_str).map(str::to_lowercase));
            }
            _ => {}
        }
        for value in schema["enum"].as_array().into_iter().flatten().chain(schema.get("const")) {
            self.0.push(kind_of(value).to_owned());
        }
        for choice in ["anyOf", "oneOf", "allOf"] {
            let schemas = schema[choice].as_array().into_iter().flatten();
            schemas.filter(|_| depth < MAX_DEPTH).for_each(|schema| self.add(schema, depth + 1));
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where a string will do, only `null` is anything else.
    fn takes(&self, value: &Value) -> bool {
        let has = |kind: &str| self.0.iter().any(|own| own == kind);
        match kind_of(value) {
            "null" => has("null"),
            _ if has("string") => false,
            "integer" => has("integer") || has("number"),
            kind => has(kind),
        }
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// JSON, or the words that Python has for it; no string.
pub(super) fn literal(text: &str) -> Option<Value> {
    match text.trim() {
        "True" => Some(Value::Bool(true)),
        "False" => Some(Value::Bool(false)),
        "None" => Some(Value::Null),
        other => serde_json::from_str(other).ok().filter(|value: &Value| !value.is_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_get_the_types_of_the_schema() {
        let properties = json!({
            "s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"}, "b": {"type": "boolean"},
            "o": {"type": "object"}, "a": {"type": "array"}, "m": {"type": ["string", "null"]},
            "u": {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "e": {"enum": ["1", "2"]}, "any": {},
        });
        let parameters = Some(json!({"type": "object", "properties": properties}));
        let tool = Tool { name: "f".into(), description: None, parameters, is_strict: false };
        let tools = ToolSet(vec![tool]);
        let cases = [
            ("s", "12", json!("12")),
            ("s", " x ", json!(" x ")),
            ("i", "12", json!(12)),
            ("i", "twelve", json!("twelve")),
            ("n", "12", json!(12)),
            ("n", "1.5", json!(1.5)),
            ("b", "True", json!(true)),
            ("b", "false", json!(false)),
            ("o", r#"{"k": [1]}"#, json!({"k": [1]})),
            ("a", "[1, 2", json!("[1, 2")),
            ("m", "null", json!(null)),
            ("m", "5", json!("5")),
            ("u", "None", json!(null)),
            ("u", "5", json!(5)),
            ("e", "1", json!("1")),
            ("any", "1", json!(1)),
            ("any", "one", json!("one")),
            ("unknown", "true", json!(true)),
        ];
        for (key, text, expected) in cases {
            assert_eq!(tools.typed("f", key, text), expected, "{key} {text}");
        }
        assert_eq!(tools.typed("other", "s", "12"), json!(12));
    }
}
