//! The forms of errors: OpenAI's, and those of Ollama's and Anthropic's routes.

use serde_json::{Value, json};

/// What the route at `path` answers when something is wrong. What is refused before a route is reached has OpenAI's form.
pub(super) fn of(path: &str) -> Value {
    let named = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    if path.starts_with("/api/") {
        json!({"anyOf": [named("OllamaError"), named("Error")]})
    } else if path.starts_with("/v1/messages") {
        json!({"anyOf": [named("AnthropicError"), named("Error")]})
    } else {
        named("Error")
    }
}

pub(super) fn openai() -> Value {
    object(&json!({"error": object(&json!({
        "message": {"type": "string"},
        "type": {"type": "string"},
        "param": {"type": ["string", "null"]},
        "code": {"type": ["string", "integer"]},
    }))}))
}

pub(super) fn ollama() -> Value {
    object(&json!({"error": {"type": "string"}}))
}

pub(super) fn anthropic() -> Value {
    object(&json!({
        "type": {"const": "error"},
        "error": object(&json!({"type": {"type": "string"}, "message": {"type": "string"}})),
    }))
}

/// All of its properties are there.
fn object(properties: &Value) -> Value {
    let names: Vec<&String> =
        properties.as_object().into_iter().flat_map(|all| all.keys()).collect();
    json!({"type": "object", "required": names, "properties": properties})
}
