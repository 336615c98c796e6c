//! `GET /openapi.json` and the page docs/api.md: made of THE table of routes, the fields that parsers ask for, and the types
//! that answers are.

pub(crate) mod doc;
mod errors;
mod fields;
mod page;
mod routes;

#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::app::{Access, ROUTES, Route};
use doc::{Answer, Doc};

/// `GET /openapi.json`.
pub(crate) async fn serve() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
    let mut response = Response::new(Body::from(TEXT.as_str()));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// The API as OpenAPI 3.1.
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut generator = settings.into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let doc = routes::doc_of(route.path);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route, &doc, &mut generator);
    }
    let mut schemas = generator.take_definitions(true);
    schemas.insert("Error".into(), errors::openai());
    schemas.insert("OllamaError".into(), errors::ollama());
    schemas.insert("AnthropicError".into(), errors::anthropic());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Quire",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Fields that are not listed are accepted and ignored. Fields whose value is null count as absent.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    })
}

/// The same for readers, in Markdown.
pub fn page() -> String {
    page::write(routes::doc_of)
}

fn operation(route: &Route, doc: &Doc, generator: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "summary": doc.summary,
        "operationId": operation_id(route),
        "responses": responses(route.path, doc, generator),
        "security": match route.access {
            Access::Open | Access::Page => json!([]),
            // Where no keys are set none is asked for.
            Access::Metrics | Access::Key | Access::Manage => json!([{"key": []}]),
        },
    });
    let names = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = names
        .map(|name| {
            json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})
        })
        .collect();
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(schema) = doc.body() {
        operation["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": schema}}});
    }
    if doc.takes_file {
        let file = json!({"application/octet-stream": {"schema": {"type": "string"}}});
        operation["requestBody"] = json!({"required": true, "content": file});
    }
    operation
}

/// The path in words: `post_v1_completions`.
fn operation_id(route: &Route) -> String {
    let words = route.path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    let words: Vec<String> = std::iter::once(route.method.as_str().to_ascii_lowercase())
        .chain(words.map(str::to_owned))
        .collect();
    words.join("_")
}

fn responses(path: &str, doc: &Doc, generator: &mut SchemaGenerator) -> Value {
    let json = |schema: Value| json!({"application/json": {"schema": schema}});
    let content = match doc.answer {
        Answer::Json(schema) => Some(json(schema(generator).into())),
        Answer::JsonOrStream(whole, event) => {
            let mut content = json(whole(generator).into());
            content["text/event-stream"] = json!({"schema": Value::from(event(generator))});
            Some(content)
        }
        Answer::ObjectOrStream(kind) => {
            let mut content = json(json!({"type": "object"}));
            content[kind] = json!({"schema": {"type": "string"}});
            Some(content)
        }
        Answer::Object => Some(json(json!({"type": "object"}))),
        Answer::Text(kind) => Some(json!({kind: {"schema": {"type": "string"}}})),
        Answer::Empty | Answer::Nothing => None,
    };
    let mut responses = json!({
        "default": {
            "description": "An error; `param` is the field to blame.",
            "content": json(errors::of(path)),
        },
    });
    if matches!(doc.answer, Answer::Empty) {
        responses["200"] = json!({"description": "Done."});
        responses["201"] = json!({"description": "Done, and something is new."});
    }
    if let Some(content) = content {
        responses["200"] = json!({"description": "The answer.", "content": content});
    }
    responses
}
