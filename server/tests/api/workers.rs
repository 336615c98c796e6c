//! What routers ask of a worker: tokens in and out, rendered requests, facts and loads.

use std::sync::mpsc;
use std::time::Duration;

use axum::http::StatusCode;
use expect_test::expect;
use quire_engine::Request;
use serde_json::{Value, json};

use crate::support::{Reply, TestServer, answer, bytes_as_tokens, config, engine_info, text_of};

const GENERATE: &str = "/inference/v1/generate";

fn hello() -> TestServer {
    TestServer::scripted(|request| answer(request, "Hello!"))
}

/// Answers "x" and tells the test what the engine was asked.
fn spied() -> (TestServer, mpsc::Receiver<Request>) {
    let (server, queue) = TestServer::with_queue(config(), engine_info());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok(submission) = queue.recv() {
            for event in answer(&submission.request, "x") {
                let _: bool = submission.events.send(event);
            }
            if sender.send(submission.request).is_err() {
                return;
            }
        }
    });
    (server, receiver)
}

fn asked(requests: &mpsc::Receiver<Request>) -> Request {
    requests.recv_timeout(Duration::from_secs(10)).expect("the engine was asked")
}

#[tokio::test]
async fn tokens_go_in_and_tokens_come_out() {
    let body = json!({
        "request_id": "r-1", "token_ids": [97, 98],
        "sampling_params": {"max_tokens": 3, "logprobs": 1, "prompt_logprobs": 0},
    });
    let whole = hello().post(GENERATE, &body).await;
    assert_eq!(whole.status, StatusCode::OK, "{}", whole.body);
    expect![[r#"
        {"request_id":"r-1","choices":[{"index":0,"logprobs":{"content":[{"token":"token_id:72","logprob":-0.5,"bytes":[72],"top_logprobs":[{"token":"token_id:72","logprob":-0.5,"bytes":[72]}]},{"token":"token_id:101","logprob":-0.5,"bytes":[101],"top_logprobs":[{"token":"token_id:101","logprob":-0.5,"bytes":[101]}]},{"token":"token_id:108","logprob":-0.5,"bytes":[108],"top_logprobs":[{"token":"token_id:108","logprob":-0.5,"bytes":[108]}]}]},"finish_reason":"length","token_ids":[72,101,108]}],"prompt_logprobs":[null,{"98":{"logprob":-0.5,"rank":1,"decoded_token":"token_id:98"}}],"kv_transfer_params":null,"usage":{"prompt_tokens":2,"total_tokens":5,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":2}}}
    "#]]
    .assert_eq(&format!("{}\n", whole.json()));
}

#[tokio::test]
async fn a_stream_of_tokens_is_the_whole_answer() {
    let mut body = json!({
        "token_ids": [97], "sampling_params": {"n": 2, "seed": 1, "max_tokens": null, "stop": "o"},
    });
    let whole = hello().post(GENERATE, &body).await.json();
    assert_eq!(whole["choices"][1]["stop_reason"], "o");
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let chunks = hello().post(GENERATE, &body).await.chunks();
    let (usage, chunks) = chunks.split_last().unwrap();
    assert_eq!((&usage["usage"], usage["choices"].as_array()), (&whole["usage"], Some(&vec![])));
    for index in 0..2 {
        let mine = chunks.iter().map(|chunk| &chunk["choices"][0]);
        let mine: Vec<&Value> = mine.filter(|choice| choice["index"] == index).collect();
        let ids = mine.iter().flat_map(|choice| choice["token_ids"].as_array().unwrap().clone());
        let choice = &whole["choices"][index];
        assert_eq!(Value::Array(ids.collect()), choice["token_ids"]);
        assert_eq!(mine.last().unwrap()["finish_reason"], choice["finish_reason"]);
    }
}

#[tokio::test]
async fn errors_name_the_field_inside() {
    let cases = [
        (json!({"token_ids": null}), "token_ids"),
        (json!({"token_ids": []}), "token_ids"),
        (json!({"token_ids": [300]}), "token_ids"),
        (json!({"token_ids": "ab"}), "token_ids"),
        (json!({"features": {}}), "features"),
        (json!({"kv_transfer_params": {}}), "kv_transfer_params"),
        (json!({"cache_salt": "a/b"}), "cache_salt"),
        (json!({"cache_salt": "x".repeat(129)}), "cache_salt"),
        (json!({"stream_options": {}}), "stream_options"),
        (json!({"sampling_params": 5}), "sampling_params"),
        (json!({"sampling_params": {"temperature": 3}}), "sampling_params.temperature"),
        (json!({"sampling_params": {"n": 9}}), "sampling_params.n"),
        (json!({"sampling_params": {"logprobs": -1}}), "sampling_params.logprobs"),
        (json!({"sampling_params": {"logprobs": 6}}), "sampling_params.logprobs"),
        (
            json!({"sampling_params": {"allowed_token_ids": [300]}}),
            "sampling_params.allowed_token_ids",
        ),
        (json!({"sampling_params": {"extra_args": {"a": 1}}}), "sampling_params.extra_args"),
        (json!({"sampling_params": {"stop": [""]}}), "sampling_params.stop"),
    ];
    let server = hello();
    for (fields, param) in cases {
        let mut body = json!({"token_ids": [97]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let reply = server.post(GENERATE, &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{fields}");
        assert_eq!(reply.json()["error"]["param"], param, "{fields}");
    }
}

/// What `body` renders to, sent on to the token route, must ask the engine the same as `body` itself.
async fn assert_rendered_alike(path: &str, body: &Value) {
    let (server, requests) = spied();
    let rendered = server.post(&format!("{path}/render"), body).await;
    assert_eq!(rendered.status, StatusCode::OK, "{}", rendered.body);
    let rendered = match rendered.json() {
        Value::Array(all) => all,
        one => vec![one],
    };
    assert_eq!(server.post(path, body).await.status, StatusCode::OK);
    for body in &rendered {
        assert_eq!(body["features"], Value::Null);
        let direct = asked(&requests);
        let reply = server.post(GENERATE, body).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
        let rendered = asked(&requests);
        assert_eq!(text_of(&rendered.prompt), text_of(&direct.prompt));
        let mut expected = direct.params.clone();
        // Written out, so that the token route needs no other default.
        let room = 200 - direct.prompt.len() as u32;
        expected.max_tokens = expected.max_tokens.or(Some(room));
        assert_eq!(rendered.params, expected);
        assert_eq!(
            (rendered.priority, &rendered.cache_salt),
            (direct.priority, &direct.cache_salt)
        );
    }
}

#[tokio::test]
async fn what_is_rendered_is_what_would_be_asked() {
    let all = json!({
        "prompt": "abc", "temperature": 0.5, "top_p": 0.5, "top_k": 7, "min_p": 0.25,
        "repetition_penalty": 1.5, "presence_penalty": -1, "frequency_penalty": 2, "seed": -5,
        "max_tokens": 50, "min_tokens": 1, "stop_token_ids": [1, 2], "ignore_eos": true,
        "logit_bias": {"5": 1000, "6": -0.5}, "allowed_token_ids": [5, 6], "bad_words": ["a"],
        "logprobs": 3, "prompt_logprobs": 2, "priority": -4, "cache_salt": "s", "stop": ["x", "y"],
    });
    assert_rendered_alike("/v1/completions", &all).await;
    assert_rendered_alike("/v1/completions", &json!({"prompt": "abc"})).await;
    let chat = json!({"messages": [{"role": "user", "content": "<|im_end|>"}], "top_k": -1});
    assert_rendered_alike("/v1/chat/completions", &chat).await;
}

#[tokio::test]
async fn every_prompt_is_rendered() {
    let (server, _requests) = spied();
    let body = json!({"prompt": ["ab", "c"], "request_id": "r"});
    let rendered = server.post("/v1/completions/render", &body).await.json();
    let of = |index: usize, field: &str| rendered[index][field].clone();
    assert_eq!([of(0, "token_ids"), of(1, "token_ids")], [json!([97, 98]), json!([99])]);
    assert_eq!([of(0, "request_id"), of(1, "request_id")], ["cmpl-r-0", "cmpl-r-1"]);
    let chat = json!({"messages": [{"role": "user", "content": "hi"}]});
    let rendered = server.post("/v1/chat/completions/render", &chat).await.json();
    let ids: Vec<u32> = serde_json::from_value(rendered["token_ids"].clone()).unwrap();
    assert!(ids.ends_with(&bytes_as_tokens("assistant\n")), "{ids:?}");
    let bad = server.post("/v1/completions/render", &json!({"prompt": "a", "n": 0})).await;
    assert_eq!(bad.json()["error"]["param"], "n");
}

#[tokio::test]
async fn a_worker_tells_routers_about_itself() {
    let server = hello();
    let get = async |path: &str| {
        let reply: Reply = server.get(path).await;
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        reply.json()
    };
    let info = get("/server_info").await;
    assert_eq!(info, get("/get_server_info").await);
    assert_eq!((&info["kv_block_size"], &info["model_id"]), (&json!(16), &json!("tiny")));
    assert!(info["instance_id"].as_str().unwrap().len() > 8);
    let model = get("/get_model_info").await;
    assert_eq!(
        (&model["is_generation"], &model["max_context_length"]),
        (&json!(true), &json!(200))
    );
    assert_eq!(get("/model_info").await, model);
    assert_eq!(get("/kv_event_sources").await, json!({}));
    assert_eq!(get("/is_sleeping").await, json!({"is_sleeping": false}));
    assert!(get("/load").await["server_load"].is_u64());
    let loads = get("/v1/loads").await;
    assert_eq!(loads["loads"].as_array().unwrap().len(), 1);
    assert_eq!(loads["loads"][0]["max_running_requests"], 8);
    assert_eq!(loads["aggregate"]["total_reqs"], loads["loads"][0]["num_total_reqs"]);
    assert_eq!(loads["timestamp"].as_str().unwrap().len(), "2026-01-01T00:00:00Z".len());
    let lora = server.post("/v1/load_lora_adapter", &json!({"lora_name": "x"})).await;
    assert_eq!(lora.status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(lora.json()["error"]["type"], "NotImplementedError");
}
