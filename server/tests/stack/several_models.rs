//! Several models in one server: found by name, loaded on demand, and how they give way to each other.

use std::time::Duration;

use axum::http::StatusCode;
use http_body_util::BodyExt;
use quire_server::app::{Health, ServerConfig};
use quire_server::registry::{Entry, KeepAlive, Origin, RegistryOptions};
use serde_json::{Value, json};

use crate::support::{TestServer, config, model_file, size_of, wait_until};

const PLENTY: u64 = 1 << 30;

fn prompt(model: &str) -> Value {
    json!({"model": model, "prompt": [1, 7, 20], "max_tokens": 3, "temperature": 0, "ignore_eos": true})
}

/// An answer that does not end by itself soon.
fn stream_of(model: &str) -> Value {
    json!({"model": model, "prompt": [1, 7, 20], "max_tokens": 200, "temperature": 0,
           "ignore_eos": true, "stream": true})
}

/// Room for the larger of the two, not for both.
fn room_for_one() -> u64 {
    let (one, other) = (size_of("llama3"), size_of("qwen3"));
    one.max(other) + one.min(other) / 2
}

#[tokio::test]
async fn each_model_answers_to_its_name() {
    // Metrics are of the process: no other test has these two.
    let server = TestServer::with(&["phi4mini", "ministral3"], PLENTY, config());
    assert_eq!(server.state.health(), Health::Ready);
    let list = server.get("/v1/models").await.ok();
    let ids: Vec<&Value> =
        list["data"].as_array().unwrap().iter().map(|card| &card["id"]).collect();
    assert_eq!(ids, ["phi4mini", "ministral3"]);
    assert_eq!(list["data"][0]["max_model_len"], Value::Null);
    server.state.models.entries()[0].set_max_model_len(100);
    assert_eq!(server.get("/v1/models/phi4mini").await.ok()["max_model_len"], 100);
    assert!(server.loaded().is_empty());

    for name in ["ministral3", "phi4mini"] {
        let answer = server.post("/v1/completions", &prompt(name)).await.ok();
        assert_eq!(
            (&answer["model"], &answer["usage"]["completion_tokens"]),
            (&json!(name), &json!(3))
        );
    }
    // The first one is the default; Ollama's clients write `:latest`.
    for name in ["default", "phi4mini:latest"] {
        let answer = server.post("/v1/completions", &prompt(name)).await.ok();
        assert_eq!(answer["model"], "phi4mini");
    }
    assert_eq!(server.loaded(), ["phi4mini", "ministral3"]);
    let card = server.get("/v1/models/ministral3").await.ok();
    assert_eq!(card["max_model_len"], 256);
    assert_eq!(server.get("/v1/models/phi4mini").await.ok()["max_model_len"], 256);
    let unknown = server.post("/v1/completions", &prompt("gemma3")).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);

    let metrics = server.get("/metrics").await.body;
    for name in ["phi4mini", "ministral3"] {
        let line = format!("vllm:generation_tokens_total{{model_name=\"{name}\"");
        assert!(metrics.contains(&line), "{name}");
        assert!(
            metrics.contains(&format!("quire_model_loaded{{model_name=\"{name}\"}} 1")),
            "{name}"
        );
    }
}

#[tokio::test]
async fn the_least_used_model_gives_way() {
    let names = ["llama3", "qwen3"];
    let server = TestServer::with(&names, room_for_one(), config());
    let first: Vec<Value> = [
        server.post("/v1/completions", &prompt("llama3")).await.ok(),
        server.post("/v1/completions", &prompt("qwen3")).await.ok(),
    ]
    .map(|answer| answer["choices"][0]["text"].clone())
    .into();
    assert_eq!(server.loaded(), ["qwen3"]);
    // What was unloaded and loaded again answers the same.
    for (name, text) in names.iter().zip(&first) {
        let answer = server.post("/v1/completions", &prompt(name)).await.ok();
        assert_eq!((&answer["choices"][0]["text"], server.loaded()), (text, vec![(*name).into()]));
    }
}

#[tokio::test]
async fn a_model_never_goes_while_a_stream_runs() {
    let server = TestServer::with(&["llama3", "qwen3"], room_for_one(), config());
    let mut stream = server.start("/v1/completions", &stream_of("llama3")).await;
    stream.frame().await.unwrap().unwrap();
    let router = server.router.clone();
    let waiting = tokio::spawn(async move {
        let other = TestServer { state: server.state, router };
        let reply = other.post("/v1/completions", &prompt("qwen3")).await;
        (reply.status, other.loaded())
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    // Read to its end, it is whole.
    let rest = String::from_utf8(stream.collect().await.unwrap().to_bytes().into()).unwrap();
    assert!(rest.ends_with("data: [DONE]\n\n") && rest.contains("\"length\""), "{rest}");
    assert_eq!(waiting.await.unwrap(), (StatusCode::OK, vec!["qwen3".to_owned()]));
}

#[tokio::test]
async fn waiting_for_a_busy_model_has_an_end() {
    let registry =
        RegistryOptions { load_timeout: Duration::from_millis(150), ..config().registry };
    let config = ServerConfig { registry, ..config() };
    let server = TestServer::with(&["llama3", "qwen3"], room_for_one(), config);
    let stream = server.start("/v1/completions", &stream_of("llama3")).await;
    let refused = server.post("/v1/completions", &prompt("qwen3")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.body.contains("--model-load-timeout"), "{}", refused.body);
    assert_eq!(refused.header("retry-after"), "5");
    // Whose turn did not come is no reason to send the other away.
    wait_until(|| server.state.models.entries()[0].is_loaded()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.post("/v1/completions", &prompt("llama3")).await.ok();
    drop(stream);
    server.post("/v1/completions", &prompt("qwen3")).await.ok();
}

#[tokio::test]
async fn many_requests_share_one_load() {
    let server = TestServer::with(&["gemma3"], PLENTY, config());
    let body = prompt("gemma3");
    let replies =
        futures_util::future::join_all((0..4).map(|_| server.post("/v1/completions", &body)));
    assert!(replies.await.iter().all(|reply| reply.status == StatusCode::OK));
    let metrics = server.get("/metrics").await.body;
    let count = metrics.lines().find(|line| {
        line.starts_with("quire_model_load_duration_seconds_count{model_name=\"gemma3\"}")
    });
    assert_eq!(count.unwrap().rsplit(' ').next(), Some("1"));
}

#[tokio::test]
async fn a_stream_shows_life_while_its_model_loads() {
    let often = Some(Duration::from_millis(1));
    let config = || ServerConfig { sse_keep_alive_interval: often, ..config() };
    let messages = json!([{"role": "user", "content": "Hi"}]);
    for (path, more) in [
        ("/v1/completions", json!({"prompt": "Hi"})),
        ("/v1/chat/completions", json!({"messages": messages})),
        ("/v1/messages", json!({"messages": messages})),
        ("/v1/responses", json!({"input": "Hi"})),
    ] {
        let body = |model: &str, stream: bool| {
            let mut body = more.clone();
            body["model"] = model.into();
            body["stream"] = stream.into();
            body["max_tokens"] = 4.into();
            body["max_output_tokens"] = 4.into();
            body
        };
        let server = TestServer::with(&["llama3", "qwen3"], PLENTY, config());
        let first = server.post(path, &body("llama3", true)).await;
        assert_eq!(first.header("content-type"), "text/event-stream; charset=utf-8");
        assert!(first.body.starts_with(": loading llama3\n\n"), "{path}: {}", first.body);
        let events = first.body.split_terminator("\n\n").filter(|event| !event.starts_with(": "));
        assert!(events.count() >= 2, "{path}: {}", first.body);
        // Neither a model that is there, nor an error that is known at once, nor an answer that comes whole.
        let second = server.post(path, &body("llama3", true)).await;
        assert!(!second.body.contains(": loading"), "{path}: {}", second.body);
        let unknown = server.post(path, &body("nobody", true)).await;
        assert_eq!(unknown.status, StatusCode::NOT_FOUND);
        let other = TestServer::with(&["llama3", "qwen3"], PLENTY, config());
        assert!(other.post(path, &body("llama3", false)).await.ok().is_object());
    }
}

#[tokio::test]
async fn a_client_that_goes_leaves_the_load_to_others() {
    let server = TestServer::with(&["qwen3"], PLENTY, config());
    let body = prompt("qwen3");
    let given_up =
        tokio::time::timeout(Duration::from_micros(1), server.post("/v1/completions", &body));
    assert!(given_up.await.is_err());
    server.post("/v1/completions", &body).await.ok();
}

#[tokio::test]
async fn unused_models_go_after_their_time() {
    let registry = RegistryOptions {
        keep_alive: KeepAlive::For(Duration::from_millis(200)),
        ..config().registry
    };
    let server =
        TestServer::with(&["llama3", "qwen3"], PLENTY, ServerConfig { registry, ..config() });
    let reaper = server.state.models.reap();
    let stream = server.start("/v1/completions", &stream_of("llama3")).await;
    server.post("/v1/completions", &prompt("qwen3")).await.ok();
    server.state.models.entries()[1].set_keep_alive(Some(KeepAlive::Forever));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(server.loaded(), ["llama3", "qwen3"]);
    drop(stream);
    wait_until(|| server.loaded() == ["qwen3"]).await;
    reaper.abort();
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_says_why() {
    let server = TestServer::with(&["llama3"], PLENTY, config());
    let broken = std::env::temp_dir().join(format!("quire-broken-{}.gguf", std::process::id()));
    std::fs::write(&broken, "GGUF, or not").unwrap();
    let origin = Origin { path: broken.clone(), ..Origin::default() };
    server.state.models.add(Entry::on_demand(vec!["broken".into()], origin)).unwrap();
    let origin = Origin { path: model_file("qwen3"), ..Origin::default() };
    let twice = server.state.models.add(Entry::on_demand(vec!["llama3:latest".into()], origin));
    assert!(twice.unwrap_err().to_string().contains("llama3"));
    server.post("/v1/completions", &prompt("llama3")).await.ok();
    let refused = server.post("/v1/completions", &prompt("broken")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.body);
    assert!(refused.body.contains("cannot be loaded"), "{}", refused.body);
    // Nobody had to go for it.
    assert_eq!(server.loaded(), ["llama3"]);
    std::fs::remove_file(broken).unwrap();

    let small = TestServer::with(&["llama3"], size_of("llama3") / 2, config());
    let refused = small.post("/v1/completions", &prompt("llama3")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.body);
}

#[tokio::test]
async fn a_server_that_drains_loads_nothing() {
    let server = TestServer::with(&["llama3", "qwen3"], PLENTY, config());
    server.post("/v1/completions", &prompt("llama3")).await.ok();
    server.state.drain();
    assert_eq!(server.state.health(), Health::Draining);
    for name in ["llama3", "qwen3"] {
        let refused = server.post("/v1/completions", &prompt(name)).await;
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(server.loaded(), ["llama3"]);
    server.state.models.close().await;
    assert!(server.loaded().is_empty());
}
