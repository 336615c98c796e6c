//! Requests that must be refused: status, blamed field, and a message that says why.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::support::{Reply, TestServer, answer};

fn server() -> TestServer {
    TestServer::scripted(|request| answer(request, "ok"))
}

fn check_error(reply: &Reply, status: u16, param: Option<&str>, case: &str) {
    assert_eq!(reply.status.as_u16(), status, "{case}: {}", reply.body);
    let error = &reply.json()["error"];
    assert_eq!(error["param"].as_str(), param, "{case}: {}", reply.body);
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 5), "{case}");
    assert!(error["type"].as_str().is_some_and(|kind| kind.ends_with("Error")), "{case}");
    assert!(!error["code"].is_null(), "{case}");
}

/// `body` with `fields` written over it.
fn with(mut body: Value, fields: &Value) -> Value {
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn chat_body() -> Value {
    json!({"messages": [{"role": "user", "content": "hi"}]})
}

fn completion_body() -> Value {
    json!({"prompt": "hi"})
}

/// A field and values that no request may have, in both routes.
fn shared_cases() -> Vec<(&'static str, Vec<Value>)> {
    let long = "x".repeat(2000);
    vec![
        ("model", vec![json!(5), json!(["tiny"])]),
        ("temperature", vec![json!(-0.1), json!(2.1), json!("hot"), json!(1e300), json!([1])]),
        ("top_p", vec![json!(0), json!(1.1), json!(-1), json!(true), json!(1e-50)]),
        ("top_k", vec![json!(-2), json!(1.5), json!(1e300), json!("1"), json!(1_u64 << 40)]),
        ("min_p", vec![json!(-0.1), json!(1.5), json!({})]),
        ("repetition_penalty", vec![json!(0), json!(-1), json!(1e300)]),
        ("presence_penalty", vec![json!(2.5), json!(-2.5), json!("1")]),
        ("frequency_penalty", vec![json!(2.5), json!(-2.5), json!([])]),
        ("n", vec![json!(0), json!(-1), json!(9), json!(1e6), json!(1.5)]),
        ("seed", vec![json!(1.5), json!(u64::MAX), json!("7")]),
        ("max_tokens", vec![json!(0), json!(-1), json!(1e12), json!("5"), json!(0.5)]),
        ("min_tokens", vec![json!(-1), json!(1e12), json!("5")]),
        (
            "stop",
            vec![
                json!(""),
                json!(["a", ""]),
                json!(5),
                json!([5]),
                json!([long]),
                json!(vec!["a"; 33]),
            ],
        ),
        (
            "stop_token_ids",
            vec![json!([-1]), json!([300]), json!("1"), json!([0.5]), json!(vec![1; 9])],
        ),
        (
            "logit_bias",
            vec![
                json!({"x": 1}),
                json!({"300": 1}),
                json!({"-1": 1}),
                json!([1]),
                json!({"1": "a"}),
            ],
        ),
        ("allowed_token_ids", vec![json!([]), json!([300]), json!(vec![1; 9])]),
        ("bad_words", vec![json!(["two tokens"]), json!([5]), json!("a"), json!(vec!["a"; 9])]),
        ("prompt_logprobs", vec![json!(-1), json!(6), json!(true)]),
        ("stream", vec![json!("yes"), json!(1)]),
        ("stream_options", vec![json!({"include_usage": true}), json!(5)]),
        ("ignore_eos", vec![json!("no")]),
        ("skip_special_tokens", vec![json!(0)]),
        ("include_stop_str_in_output", vec![json!("x")]),
        ("priority", vec![json!("high"), json!(1e12)]),
        ("cache_salt", vec![json!(""), json!("a/b"), json!("x".repeat(129)), json!(5)]),
        ("request_id", vec![json!("a b"), json!(""), json!("x".repeat(129)), json!(7)]),
        ("user", vec![json!({})]),
        ("web_search_options", vec![json!({})]),
        ("dry_multiplier", vec![json!(0.8)]),
        ("use_beam_search", vec![json!(true)]),
        ("truncate_prompt_tokens", vec![json!(0), json!(-2), json!("5"), json!(1e12)]),
        ("truncation_side", vec![json!("middle"), json!(5)]),
        ("thinking_token_budget", vec![json!(5)]),
        ("kv_transfer_params", vec![json!({})]),
    ]
}

/// What no answer can be made to look like.
fn structured_cases() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        (
            "response_format",
            vec![
                json!("text"),
                json!({"type": "xml"}),
                json!({"type": "json_schema"}),
                json!({"type": "json_schema", "json_schema": {"name": "a"}}),
                json!({"type": "json_schema", "json_schema": {"schema": 5}}),
                json!({"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}),
                json!({"type": "json_schema", "json_schema": {"schema": {"not": {}}}}),
            ],
        ),
        (
            "structured_outputs",
            vec![
                json!({}),
                json!({"regex": "a", "json": {}}),
                json!({"regex": ""}),
                json!({"regex": "("}),
                json!({"regex": 5}),
                json!({"choice": []}),
                json!({"choice": [""]}),
                json!({"choice": "a"}),
                json!({"json": "{"}),
                json!({"json": []}),
                json!({"json_object": 1}),
                json!({"json_object": false}),
                json!({"grammar": "start: ("}),
                json!({"grammar": "a".repeat(5000)}),
                json!({"backend": "x", "regex": "a"}),
            ],
        ),
        ("guided_json", vec![json!("x"), json!(5), json!({"type": 5})]),
        ("guided_regex", vec![json!(5), json!("[")]),
        ("guided_choice", vec![json!([1]), json!({}), json!([])]),
        ("guided_grammar", vec![json!({}), json!("?")]),
    ]
}

#[tokio::test]
async fn both_routes_blame_the_field() {
    let server = server();
    let routes = [("/v1/chat/completions", chat_body()), ("/v1/completions", completion_body())];
    for (path, body) in routes {
        for (field, values) in shared_cases().into_iter().chain(structured_cases()) {
            for value in values {
                let request = with(body.clone(), &json!({ field: value }));
                let case = format!("{path} {field}: {value}");
                check_error(&server.post(path, &request).await, 400, Some(field), &case);
            }
        }
    }
}

#[tokio::test]
async fn chat_blames_its_own_fields() {
    let user = json!({"role": "user", "content": "hi"});
    let image = json!({"type": "image_url", "image_url": {"url": "http://x"}});
    let cases = [
        (json!({"messages": []}), "messages"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": "hi"}), "messages"),
        (json!({"messages": ["hi"]}), "messages"),
        (json!({"messages": [{"content": "hi"}]}), "messages"),
        (json!({"messages": [{"role": "wizard", "content": "hi"}]}), "messages"),
        (json!({"messages": [{"role": "user"}]}), "messages"),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages"),
        (json!({"messages": [{"role": "user", "content": [{"text": "x"}]}]}), "messages"),
        (json!({"messages": [{"role": "user", "content": [image]}]}), "messages"),
        (json!({"messages": vec![user; 9]}), "messages"),
        (json!({"messages": [{"role": "user", "content": "x".repeat(300)}]}), "messages"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        (json!({"logprobs": 3}), "logprobs"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 6}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": -1}), "top_logprobs"),
        (json!({"prompt_logprobs": 1, "stream": true}), "prompt_logprobs"),
        (json!({"n": 2, "temperature": 0}), "n"),
        (json!({"min_tokens": 6, "max_tokens": 5}), "min_tokens"),
        (json!({"tools": []}), "tools"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"chat_template": "{{ x }}"}), "chat_template"),
        (json!({"chat_template_kwargs": {"messages": []}}), "chat_template_kwargs"),
        (json!({"chat_template_kwargs": 5}), "chat_template_kwargs"),
        (json!({"reasoning_effort": "huge"}), "reasoning_effort"),
        (json!({"continue_final_message": true}), "continue_final_message"),
        (json!({"modalities": ["audio"]}), "modalities"),
        (json!({"documents": [5]}), "documents"),
        (json!({"echo": 1}), "echo"),
        (json!({"best_of": 2}), "best_of"),
        (json!({"return_prompt_text": 1}), "return_prompt_text"),
    ];
    let server = server();
    for (fields, param) in cases {
        let request = with(chat_body(), &fields);
        let reply = server.post("/v1/chat/completions", &request).await;
        check_error(&reply, 400, Some(param), &fields.to_string());
    }
}

#[tokio::test]
async fn completions_blame_their_own_fields() {
    let cases = [
        (json!({"prompt": null}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": ""}), "prompt"),
        (json!({"prompt": 5}), "prompt"),
        (json!({"prompt": [[]]}), "prompt"),
        (json!({"prompt": [1, "a"]}), "prompt"),
        (json!({"prompt": [300]}), "prompt"),
        (json!({"prompt": [-1]}), "prompt"),
        (json!({"prompt": ["a", "b", "c", "d", "e"]}), "prompt"),
        (json!({"prompt": ["a", "b", "c"], "n": 6}), "n"),
        (json!({"logprobs": 6}), "logprobs"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"echo": "yes"}), "echo"),
        (json!({"suffix": "x"}), "suffix"),
        (json!({"prompt_embeds": "x"}), "prompt_embeds"),
    ];
    let server = server();
    for (fields, param) in cases {
        let request = with(completion_body(), &fields);
        let reply = server.post("/v1/completions", &request).await;
        check_error(&reply, 400, Some(param), &fields.to_string());
    }
}

#[tokio::test]
async fn too_long_prompts_are_told_the_counts() {
    let server = server();
    let body = json!({"prompt": vec![65; 190], "max_tokens": 20});
    let reply = server.post("/v1/completions", &body).await;
    check_error(&reply, 400, Some("prompt"), "too long");
    let error = &reply.json()["error"];
    assert_eq!(error["code"], "context_length_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(["200", "210", "190"].iter().all(|count| message.contains(count)), "{message}");
}

#[tokio::test]
async fn broken_bodies_are_400_and_large_ones_413() {
    let server = server();
    let deep = format!(r#"{{"messages": {}{}}}"#, "[".repeat(100_000 / 4), "]".repeat(100_000 / 4));
    let large = vec![b' '; (64 << 10) + 1];
    let cases: [(&[u8], u16, Option<&str>); 13] = [
        (b"", 400, None),
        (b"{", 400, None),
        (b"[]", 400, None),
        (b"\"prompt\"", 400, None),
        (b"\xef\xbb\xbf{}", 400, None),
        (b"\xff\xfe{\0}\0", 400, None),
        (b"{\0}\0", 400, None),
        (b"{\"prompt\": \"a\0b\"}", 400, None),
        (b"{\"prompt\": \"\xff\"}", 400, None),
        (br#"{"prompt": "a", "temperature": NaN}"#, 400, Some("temperature")),
        (br#"{"prompt": "\ud800", "n": 1}"#, 400, Some("prompt")),
        (deep.as_bytes(), 400, Some("messages")),
        (&large, 413, None),
    ];
    for (body, status, param) in cases {
        let path =
            if param == Some("messages") { "/v1/chat/completions" } else { "/v1/completions" };
        let reply = server.post_text(path, body.to_vec()).await;
        let start = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        check_error(&reply, status, param, &start);
    }
}

#[tokio::test]
async fn unknown_models_fields_and_null_values() {
    let server = server();
    for name in ["tiny", "alias", "default"] {
        let body = with(completion_body(), &json!({"model": name}));
        let reply = server.post("/v1/completions", &body).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.json()["model"], "tiny");
    }
    let body = with(completion_body(), &json!({"model": "gpt-4"}));
    for path in ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"] {
        check_error(&server.post(path, &body).await, 404, Some("model"), path);
    }
    let neutral = json!({
        "temperature": null, "n": null, "stop": null, "stream": null, "logit_bias": null, "tools": null,
        "response_format": {"type": "text"}, "length_penalty": 1.0, "brand_new_field": {"x": 1}, "store": true,
        "stream_options": null, "top_k": -1, "seed": -5, "user": "u", "suffix": null, "best_of": 1,
    });
    let reply = server.post("/v1/completions", &with(completion_body(), &neutral)).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    let twice = r#"{"prompt": 5, "prompt": "a"}"#;
    assert_eq!(server.post_text("/v1/completions", twice).await.status, StatusCode::OK);
}
