//! Ollama's routes: shapes, streams, options, loading and unloading, and what is refused.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use quire_server::app::ServerConfig;
use serde_json::{Value, json};

use crate::support::{TestServer, config};

const PLENTY: u64 = 1 << 30;

fn server() -> TestServer {
    TestServer::with(&["llama3"], PLENTY, config())
}

fn chat(more: Value) -> Value {
    let mut body = json!({
        "model": "llama3",
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "options": {"temperature": 0, "num_predict": 8, "seed": 1},
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn lines(body: &str) -> Vec<Value> {
    assert!(body.ends_with('\n'));
    body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every part of an answer's time is within the whole.
#[track_caller]
fn check_durations(last: &Value) {
    let number = |name: &str| last[name].as_u64().unwrap_or_else(|| panic!("{name} in {last}"));
    let parts = number("load_duration") + number("prompt_eval_duration") + number("eval_duration");
    assert!(parts <= number("total_duration"), "{last}");
    assert!(number("prompt_eval_duration") > 0 && number("eval_duration") > 0, "{last}");
    assert!(number("prompt_eval_count") > 5 && number("eval_count") == 8, "{last}");
}

#[tokio::test]
async fn a_chat_streams_lines_or_comes_whole() {
    let server = server();
    let reply = server.post("/api/chat", &chat(json!({}))).await;
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    let mut lines = lines(&reply.body);
    let last = lines.pop().unwrap();
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("length")));
    assert_eq!(last["message"], json!({"role": "assistant", "content": ""}));
    check_durations(&last);
    assert!(last["load_duration"].as_u64().unwrap() > 0);
    let mut text = String::new();
    for line in &lines {
        assert_eq!((&line["done"], &line["model"]), (&json!(false), &json!("llama3")), "{line}");
        assert!(line["created_at"].as_str().unwrap().ends_with('Z'));
        text.push_str(line["message"]["content"].as_str().unwrap());
    }

    let whole = server.post("/api/chat", &chat(json!({"stream": false}))).await.ok();
    assert_eq!(whole["message"], json!({"role": "assistant", "content": text}));
    check_durations(&whole);
    // The same through the other API.
    let other = json!({"model": "llama3", "messages": chat(json!({}))["messages"], "temperature": 0,
                       "max_tokens": 8});
    let other = server.post("/v1/chat/completions", &other).await.ok();
    assert_eq!(other["choices"][0]["message"]["content"], text);
}

#[tokio::test]
async fn generate_answers_prompts() {
    let server = server();
    let body = |more: Value| {
        let mut body = json!({"model": "llama3:latest", "prompt": "Hello", "stream": false,
                              "options": {"temperature": 0, "num_predict": 8}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let first = server.post("/api/generate", &body(json!({}))).await.ok();
    assert_eq!((&first["done"], &first["model"]), (&json!(true), &json!("llama3:latest")));
    assert!(first["response"].is_string(), "{first}");
    check_durations(&first);
    let context = first["context"].as_array().unwrap();
    assert_eq!(context.len() as u64, first["prompt_eval_count"].as_u64().unwrap() + 8);
    let again = server.post("/api/generate", &body(json!({"context": context}))).await.ok();
    let longer = again["prompt_eval_count"].as_u64().unwrap();
    assert_eq!(longer, context.len() as u64 + first["prompt_eval_count"].as_u64().unwrap());

    let system = server.post("/api/generate", &body(json!({"system": "Be short."}))).await.ok();
    assert!(system["prompt_eval_count"].as_u64() > first["prompt_eval_count"].as_u64());
    let raw = json!({"model": "llama3", "prompt": "Hello there, it is a fine day", "raw": true,
                     "options": {"temperature": 0, "num_predict": 8}});
    let raw = server.post("/api/generate", &raw).await;
    let last = lines(&raw.body).pop().unwrap();
    assert!(last.get("context").is_none() && last["done"] == true, "{last}");

    for (more, expected) in [
        (json!({"raw": true, "system": "x"}), "raw mode does not support"),
        (json!({"template": "{{ .Prompt }}"}), "template is not taken from requests"),
        (json!({"suffix": "end"}), "\\\"llama3:latest\\\" does not support insert"),
        (json!({"images": ["aGk="]}), "does not support images"),
        (json!({"context": [99999999]}), "vocab"),
    ] {
        let reply = server.post("/api/generate", &body(more)).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.body);
        assert!(reply.body.contains(expected), "{}", reply.body);
        assert!(reply.json()["error"].is_string());
    }
}

#[tokio::test]
async fn answers_follow_a_format() {
    let server = server();
    let schema = json!({"type": "object", "properties": {"a": {"enum": ["x", "y"]}},
                        "required": ["a"], "additionalProperties": false});
    let options = json!({"temperature": 0, "num_predict": 64});
    for format in [schema.clone(), json!("json")] {
        let body = chat(json!({"format": format, "stream": false, "options": options}));
        let reply = server.post("/api/chat", &body).await.ok();
        let text = reply["message"]["content"].as_str().unwrap();
        assert!(text.trim_start().starts_with('{'), "{reply}");
        if format == schema {
            let answer: Value = serde_json::from_str(text).unwrap();
            assert!(answer["a"] == "x" || answer["a"] == "y", "{answer}");
        }
    }
    for format in [json!("xml"), json!(1), json!([schema])] {
        let body = chat(json!({"format": format}));
        let reply = server.post("/api/chat", &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.body);
        assert!(reply.body.contains("format"), "{}", reply.body);
    }
}

#[tokio::test]
async fn models_are_loaded_and_unloaded_on_request() {
    let server = server();
    let idle = server.get("/api/ps").await.ok();
    assert_eq!(idle, json!({"models": []}));
    let loaded = server.post("/api/generate", &json!({"model": "llama3"})).await.ok();
    assert_eq!((&loaded["done_reason"], &loaded["done"]), (&json!("load"), &json!(true)));
    let ps = server.get("/api/ps").await.ok();
    let model = &ps["models"][0];
    assert_eq!((&model["name"], &model["context_length"]), (&json!("llama3:latest"), &json!(256)));
    assert!(model["expires_at"].as_str().unwrap().starts_with("2318-"), "{model}");
    assert!(model["size"].as_u64().unwrap() > 400_000);

    let soon = json!({"model": "llama3", "keep_alive": "10m"});
    server.post("/api/generate", &soon).await.ok();
    let ps = server.get("/api/ps").await.ok();
    assert!(ps["models"][0]["expires_at"].as_str().unwrap().starts_with("20"));
    let unload = json!({"model": "llama3", "messages": [], "keep_alive": 0});
    let gone = server.post("/api/chat", &unload).await.ok();
    assert_eq!(gone["done_reason"], "unload");
    assert!(server.loaded().is_empty());
    for keep_alive in [json!("soon"), json!([]), json!("")] {
        let reply =
            server.post("/api/chat", &json!({"model": "llama3", "keep_alive": keep_alive})).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.body);
        assert!(reply.body.contains("keep_alive"), "{}", reply.body);
    }
}

#[tokio::test]
async fn the_model_that_is_always_loaded_stays() {
    let config = ServerConfig { served_model_names: vec!["one".into()], ..config() };
    let server = TestServer::empty(PLENTY, config);
    server.load_pinned("qwen3");
    let stays = json!({"model": "one", "keep_alive": 0});
    let reply = server.post("/api/generate", &stays).await.ok();
    assert_eq!(reply["done_reason"], "load");
    assert_eq!(server.loaded(), ["one"]);
    let ps = server.get("/api/ps").await.ok();
    assert!(ps["models"][0]["expires_at"].as_str().unwrap().starts_with("2318-"), "{ps}");
    assert_eq!(server.get("/api/tags").await.ok()["models"][0]["name"], "one:latest");
}

#[tokio::test]
async fn options_never_load_a_model_anew() {
    // Metrics are of the process: no other test has this model.
    let server = TestServer::with(&["gemma4_e2b"], PLENTY, config());
    for options in [
        json!({}),
        json!({"num_ctx": 64, "num_thread": 1, "num_gpu": 0, "num_batch": 8, "use_mmap": false}),
        json!({"num_ctx": 100_000, "of_another_version": {"deep": [1]}, "mirostat": 2}),
        json!({"temperature": null, "stop": ["a", "b"], "top_k": 3.0, "seed": -1, "num_predict": -1}),
    ] {
        let mut body = json!({"model": "gemma4_e2b", "prompt": "Hi", "stream": false});
        body["options"] = options;
        body["options"]["num_predict"] = json!(2);
        server.post("/api/generate", &body).await.ok();
    }
    let metrics = server.get("/metrics").await.body;
    let loads = "quire_model_load_duration_seconds_count{model_name=\"gemma4_e2b\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(loads));
    assert_eq!(count, Some("1"));

    for (name, value) in [
        ("temperature", json!("hot")),
        ("num_ctx", json!(1.5)),
        ("num_ctx", json!("8k")),
        ("top_k", json!([1])),
        ("stop", json!([1])),
        ("use_mmap", json!(1)),
        ("num_thread", json!("all")),
        ("seed", json!(true)),
    ] {
        let body = json!({"model": "gemma4_e2b", "prompt": "Hi", "options": {name: value}});
        let reply = server.post("/api/generate", &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.body);
        assert!(reply.body.contains(name), "{}", reply.body);
    }
}

#[tokio::test]
async fn what_is_too_long_is_said_with_numbers() {
    let server = server();
    let messages: Vec<Value> = (0..6)
        .map(|i| json!({"role": "user", "content": format!("{i} {}", "word ".repeat(8))}))
        .collect();
    let body = |more: Value| {
        let mut all = chat(json!({"messages": messages, "stream": false}));
        all["options"]["num_ctx"] = json!(60);
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let refused = server.post("/api/chat", &body(json!({}))).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let error = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("num_ctx is 60") && error.contains("truncate"), "{error}");

    let cut = server.post("/api/chat", &body(json!({"truncate": true}))).await;
    let dropped: usize = cut.header("x-quire-truncated").parse().unwrap();
    assert!((1..6).contains(&dropped), "{dropped}");
    assert!(cut.ok()["prompt_eval_count"].as_u64().unwrap() < 60);
    let whole = chat(json!({"truncate": true, "stream": false}));
    assert_eq!(server.post("/api/chat", &whole).await.header("x-quire-truncated"), "");
    // The answer ends where the window is full.
    let mut full = chat(json!({"stream": false}));
    full["options"] = json!({"temperature": 0, "num_ctx": 60, "num_predict": 500});
    let full = server.post("/api/chat", &full).await.ok();
    let count = |name: &str| full[name].as_u64().unwrap();
    assert!(count("prompt_eval_count") + count("eval_count") <= 60, "{full}");

    let raw = json!({"model": "llama3", "prompt": "word ".repeat(100), "raw": true, "stream": false,
                     "truncate": true, "options": {"num_ctx": 32, "num_predict": 4}});
    let raw = server.post("/api/generate", &raw).await;
    assert!(raw.header("x-quire-truncated").parse::<u32>().unwrap() > 0);
    assert_eq!(raw.ok()["prompt_eval_count"], 31);
}

#[tokio::test]
async fn models_are_shown_without_loading() {
    let server = TestServer::with(&["llama3", "modernbert"], PLENTY, config());
    let tags = server.get("/api/tags").await.ok();
    let names: Vec<&Value> =
        tags["models"].as_array().unwrap().iter().map(|model| &model["model"]).collect();
    assert_eq!(names, ["llama3:latest", "modernbert:latest"]);
    let first = &tags["models"][0];
    assert_eq!(first["digest"].as_str().unwrap().len(), 64);
    assert_eq!(first["details"]["family"], "llama");
    let show = server.post("/api/show", &json!({"model": "llama3"})).await.ok();
    assert!(show["model_info"]["llama.context_length"].is_u64(), "{show}");
    assert_eq!(show["model_info"]["tokenizer.ggml.tokens"], Value::Null);
    assert!(show["capabilities"].as_array().unwrap().contains(&json!("completion")));
    assert!(show["template"].as_str().unwrap().contains("message"));
    assert!(show.get("tensors").is_none());
    let verbose = json!({"name": "modernbert", "verbose": true});
    let show = server.post("/api/show", &verbose).await.ok();
    assert_eq!(show["capabilities"], json!(["embedding"]));
    assert!(!show["tensors"].as_array().unwrap().is_empty());
    assert!(server.loaded().is_empty());

    let missing = server.post("/api/show", &json!({"model": "../../etc/passwd"})).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    let missing = server.post("/api/chat", &json!({"model": "nothing"})).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(missing.json()["error"], "model \"nothing\" not found, try pulling it first");
    let nameless = server.post("/api/chat", &json!({"messages": []})).await;
    assert_eq!(nameless.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn texts_become_embeddings() {
    let server = TestServer::with(&["modernbert"], PLENTY, config());
    let body = json!({"model": "modernbert", "input": ["Hello there", "Good day"]});
    let many = server.post("/api/embed", &body).await.ok();
    let vectors = many["embeddings"].as_array().unwrap();
    let norm = |vector: &Value| -> f64 {
        vector.as_array().unwrap().iter().map(|x| x.as_f64().unwrap().powi(2)).sum::<f64>().sqrt()
    };
    assert_eq!(vectors.len(), 2);
    assert!((norm(&vectors[1]) - 1.0).abs() < 1e-5);
    assert!(many["prompt_eval_count"].as_u64().unwrap() > 3);
    let one = json!({"model": "modernbert", "prompt": "Hello there"});
    let one = server.post("/api/embeddings", &one).await.ok();
    let length = norm(&one["embedding"]);
    assert!((length - 1.0).abs() > 1e-3, "{length}");
    // Of the same direction.
    let dot: f64 = one["embedding"]
        .as_array()
        .unwrap()
        .iter()
        .zip(vectors[0].as_array().unwrap())
        .map(|(a, b)| a.as_f64().unwrap() * b.as_f64().unwrap())
        .sum();
    assert!((dot / length - 1.0).abs() < 1e-4);

    let long = json!({"model": "modernbert", "input": "word ".repeat(2000)});
    let refused = server.post("/api/embed", &long).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.body);
    let cut = json!({"model": "modernbert", "input": "word ".repeat(2000), "truncate": true});
    let cut = server.post("/api/embed", &cut).await;
    assert_eq!(cut.header("x-quire-truncated"), "1");
    cut.ok();
    let refused = server
        .post(
            "/api/chat",
            &json!({"model": "modernbert",
        "messages": [{"role": "user", "content": "hi"}]}),
        )
        .await;
    assert_eq!(refused.json()["error"], "\"modernbert\" does not support chat");
}

#[tokio::test]
async fn clients_need_not_say_json_but_web_pages_must() {
    let server = server();
    let body = || Body::from(chat(json!({"stream": false})).to_string());
    let form =
        || Request::post("/api/chat").header("content-type", "application/x-www-form-urlencoded");
    let reply = server.send(form().body(body()).unwrap()).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    let page = form().header("origin", "https://page.example").body(body()).unwrap();
    assert_eq!(server.send(page).await.status, StatusCode::BAD_REQUEST);
    let root = server.get("/").await;
    assert_eq!((root.status, root.body.as_str()), (StatusCode::OK, "Ollama is running"));
    let head = server.send(Request::head("/").body(Body::empty()).unwrap()).await;
    assert_eq!((head.status, head.body.as_str()), (StatusCode::OK, ""));
    let version = server.get("/api/version").await.ok();
    assert_eq!(version["version"].as_str().unwrap().split('.').count(), 3);
}

#[tokio::test]
async fn pictures_and_bad_messages_are_refused() {
    let server = server();
    for (messages, expected) in [
        (json!([{"role": "user", "content": "see", "images": ["aGk="]}]), "images"),
        (json!([{"role": "robot", "content": "x"}]), "role"),
        (json!([{"content": "x"}]), "messages[0]"),
        (json!("x"), "messages"),
    ] {
        let reply =
            server.post("/api/chat", &json!({"model": "llama3", "messages": messages})).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{}", reply.body);
        assert!(reply.json()["error"].as_str().unwrap().contains(expected), "{}", reply.body);
    }
    for body in ["", "{", "[]", "null"] {
        let request = Request::post("/api/chat").body(Body::from(body)).unwrap();
        assert_eq!(server.send(request).await.status, StatusCode::BAD_REQUEST, "{body:?}");
    }
}
