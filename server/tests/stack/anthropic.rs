//! Anthropic's routes: messages whole and streamed, counting, errors and keys.

use axum::http::{Method, StatusCode};
use quire_server::app::ServerConfig;
use quire_server::http::auth::ApiKey;
use serde_json::{Value, json};

use crate::support::{TestServer, config, json_request};

const PLENTY: u64 = 1 << 30;

fn body(more: Value) -> Value {
    let mut body = json!({
        "model": "llama3", "max_tokens": 8, "temperature": 0, "system": "Be brief.",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Names and data of the events.
fn events(text: &str) -> Vec<(String, Value)> {
    let event = |block: &str| {
        let (name, data) = block.split_once('\n').unwrap();
        let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        (name.strip_prefix("event: ").unwrap().to_owned(), data)
    };
    text.split_terminator("\n\n").map(event).collect()
}

#[tokio::test]
async fn a_message_comes_whole_or_as_events() {
    let server = TestServer::with(&["llama3"], PLENTY, config());
    let whole = server.post("/v1/messages", &body(json!({}))).await.ok();
    assert_eq!((&whole["type"], &whole["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(whole["stop_reason"], "max_tokens");
    assert_eq!(whole["usage"]["output_tokens"], 8);
    let text = whole["content"][0]["text"].as_str().unwrap();

    let streamed = server.post("/v1/messages", &body(json!({"stream": true}))).await;
    assert_eq!(streamed.header("content-type"), "text/event-stream; charset=utf-8");
    let all = events(&streamed.body);
    assert!(all.iter().all(|(name, data)| data["type"] == **name));
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[..2], ["message_start", "content_block_start"]);
    assert_eq!(names[names.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let parts: String = all.iter().filter_map(|(_, data)| data["delta"]["text"].as_str()).collect();
    assert_eq!(parts, text);
    let last = &all[all.len() - 2].1;
    assert_eq!(
        (&last["delta"]["stop_reason"], &last["usage"]["output_tokens"]),
        (&json!("max_tokens"), &json!(8))
    );

    let count = server.post("/v1/messages/count_tokens", &body(json!({}))).await.ok();
    let usage = &whole["usage"];
    let input = usage["input_tokens"].as_u64().unwrap()
        + usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(count["input_tokens"], input);
}

#[tokio::test]
async fn mistakes_are_told_in_its_shape() {
    let server = TestServer::with(&["llama3"], PLENTY, config());
    let image = json!([{"role": "user", "content": [{"type": "image", "source": {}}]}]);
    for (more, expected) in [
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": image}), "only text"),
        (json!({"messages": [{"role": "robot", "content": "x"}]}), "role"),
        (json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}), "tools"),
        (
            json!({"tool_choice": {"type": "some"}, "tools": [{"name": "t", "input_schema": {}}]}),
            "tool_choice",
        ),
        (json!({"thinking": {"type": "maybe"}}), "thinking"),
        (json!({"temperature": "hot"}), "temperature"),
    ] {
        let reply = server.post("/v1/messages", &body(more)).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.body);
        let error = reply.json();
        assert_eq!(
            (&error["type"], &error["error"]["type"]),
            (&json!("error"), &json!("invalid_request_error"))
        );
        assert!(error["error"]["message"].as_str().unwrap().contains(expected), "{error}");
    }
    let unknown = server.post("/v1/messages", &body(json!({"model": "claude"}))).await;
    assert_eq!(
        (unknown.status, &unknown.json()["error"]["type"]),
        (StatusCode::NOT_FOUND, &json!("not_found_error"))
    );
}

#[tokio::test]
async fn its_header_carries_the_key() {
    let config = ServerConfig { api_keys: vec![ApiKey::new("secret")], ..config() };
    let server = TestServer::with(&["llama3"], PLENTY, config);
    for (key, status) in [("secret", StatusCode::OK), ("wrong", StatusCode::UNAUTHORIZED)] {
        let mut request = json_request(Method::POST, "/v1/messages", &body(json!({})));
        request.headers_mut().insert("x-api-key", key.parse().unwrap());
        assert_eq!(server.send(request).await.status, status);
    }
}
