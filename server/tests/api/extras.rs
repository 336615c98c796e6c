//! What vLLM's API has beyond OpenAI's: cut prompts, echoes, the best of several answers, headers of routers, times.

use axum::body::Body;
use axum::http::{Method, StatusCode};
use quire_engine::request::{FinishReason, StreamEvent, TokenLogprobs, TokenOutput};
use serde_json::{Value, json};

use crate::support::{
    Reply, TestServer, answer, answer_tokens, config, engine_info, json_request, text_of,
};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

fn hello() -> TestServer {
    TestServer::scripted(|request| answer(request, "Hello!"))
}

/// Answers with the prompt it was given.
fn parrot() -> TestServer {
    TestServer::scripted(|request| answer(request, &text_of(&request.prompt)))
}

/// One letter, `a` for seed 0, whose log probability is that of the seed.
fn rated(request: &quire_engine::Request) -> Vec<StreamEvent> {
    const LOGPROBS: [f32; 4] = [-3.0, -1.0, -2.0, -4.0];
    let seed = request.params.seed.unwrap_or(0) as usize;
    let mut events = answer_tokens(request, &[97 + seed as u32], FinishReason::Length);
    for event in &mut events {
        if let StreamEvent::Token(TokenOutput { logprobs: Some(known), .. }) = event {
            *known = TokenLogprobs { logprob: LOGPROBS[seed % 4], rank: 1, top: Vec::new() };
        }
    }
    events
}

fn texts(reply: &Reply) -> Vec<String> {
    let reply = reply.json();
    let choices = reply["choices"].as_array().unwrap();
    choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_best_of_several_answers_are_shown_best_first() {
    let server = TestServer::scripted(rated);
    let body = json!({"prompt": ["x", "y"], "n": 2, "best_of": 4, "seed": 0, "max_tokens": 1});
    let reply = server.post(COMPLETIONS, &body).await;
    assert_eq!(texts(&reply), ["b", "c", "b", "c"]);
    let reply = reply.json();
    let indices: Vec<u64> =
        reply["choices"].as_array().unwrap().iter().map(|c| c["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert_eq!(reply["choices"][0]["logprobs"], Value::Null, "nobody asked");
    assert_eq!(reply["usage"]["completion_tokens"], 8, "all that were made");
    for fields in [
        json!({"best_of": 1, "n": 2}),
        json!({"best_of": 9}),
        json!({"best_of": 2, "temperature": 0}),
        json!({"best_of": 2, "stream": true}),
    ] {
        let mut body = json!({"prompt": "x"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let reply = server.post(COMPLETIONS, &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{fields}");
        assert_eq!(reply.json()["error"]["param"], "best_of", "{fields}");
    }
}

#[tokio::test]
async fn prompts_are_cut_where_asked() {
    let server = parrot();
    let long = "x".repeat(300) + "end";
    let cases = [
        (json!({"prompt": "abcdef", "truncate_prompt_tokens": 2}), "ef"),
        (
            json!({"prompt": "abcdef", "truncate_prompt_tokens": 2, "truncation_side": "right"}),
            "ab",
        ),
        (json!({"prompt": "ab", "truncate_prompt_tokens": 5}), "ab"),
        (json!({"prompt": [97, 98, 99], "truncate_prompt_tokens": 1}), "c"),
    ];
    for (body, expected) in cases {
        assert_eq!(texts(&server.post(COMPLETIONS, &body).await), [expected], "{body}");
    }
    let body = json!({"prompt": long, "truncate_prompt_tokens": -1, "max_tokens": 50});
    let reply = server.post(COMPLETIONS, &body).await;
    assert_eq!(reply.json()["usage"]["prompt_tokens"], 150, "what 200 leave for 50");
    let message = json!({"role": "user", "content": "abcdef"});
    let body = json!({"messages": [message], "truncate_prompt_tokens": 10, "max_tokens": 20});
    let content = &server.post(CHAT, &body).await.json()["choices"][0]["message"]["content"];
    assert_eq!(content.as_str().unwrap(), "assistant\n");
}

#[tokio::test]
async fn chats_show_what_they_go_on_from() {
    let server = hello();
    let messages =
        json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "So: "}]);
    let mut body = json!({
        "messages": messages, "continue_final_message": true, "add_generation_prompt": false,
        "echo": true, "return_prompt_text": true,
    });
    let whole = server.post(CHAT, &body).await.json();
    assert_eq!(whole["choices"][0]["message"]["content"], "So: Hello!");
    let prompt = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nSo: ";
    assert_eq!(whole["prompt_text"].as_str().unwrap().trim_end(), prompt.trim_end());
    body["stream"] = json!(true);
    let chunks = server.post(CHAT, &body).await.chunks();
    let text: String =
        chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "So: Hello!");
    assert_eq!(chunks[0]["prompt_text"], whole["prompt_text"]);
}

#[tokio::test]
async fn an_echo_is_scored_in_a_stream_too() {
    let mut body = json!({"prompt": "é!", "echo": true, "logprobs": 1, "max_tokens": 3});
    let whole = hello().post(COMPLETIONS, &body).await.json();
    body["stream"] = json!(true);
    let chunks = hello().post(COMPLETIONS, &body).await.chunks();
    for field in ["text_offset", "token_logprobs", "tokens", "top_logprobs"] {
        let of = |chunk: &Value| chunk["choices"][0]["logprobs"][field].as_array().cloned();
        let joined: Vec<Value> = chunks.iter().filter_map(of).flatten().collect();
        assert_eq!(Some(joined), of(&whole), "{field}");
    }
}

async fn with_headers(server: &TestServer, headers: &[(&str, &str)], body: &Value) -> Reply {
    let mut request = json_request(Method::POST, COMPLETIONS);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    server.send(request.body(Body::from(body.to_string())).unwrap()).await
}

#[tokio::test]
async fn headers_of_routers_count() {
    // Answers with the priority it was given.
    let server = TestServer::scripted(|request| answer(request, &format!("{}", request.priority)));
    let plain = json!({"prompt": "x"});
    let own = json!({"prompt": "x", "priority": 3});
    let cases = [(&plain, "-7", "-7"), (&own, "-7", "3")];
    for (body, header, expected) in cases {
        let reply = with_headers(&server, &[("x-vllm-priority", header)], body).await;
        assert_eq!(texts(&reply), [expected]);
    }
    let rank = "x-data-parallel-rank";
    assert_eq!(with_headers(&server, &[(rank, "0")], &plain).await.status, StatusCode::OK);
    for (name, value) in [(rank, "1"), (rank, "-1"), (rank, "one"), ("x-vllm-priority", "high")] {
        let reply = with_headers(&server, &[(name, value)], &plain).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{name}: {value}");
        assert_eq!(reply.json()["error"]["param"], name, "{value}");
    }
}

#[tokio::test]
async fn times_are_told_where_the_server_wants_it() {
    let mut config = config();
    config.per_request_metrics = true;
    let (server, queue) = TestServer::with_queue(config, engine_info());
    std::thread::spawn(move || {
        while let Ok(submission) = queue.recv() {
            for event in answer(&submission.request, "Hello!") {
                assert!(submission.events.send(event));
            }
        }
    });
    let chat = json!({"messages": [{"role": "user", "content": "q"}]});
    for (path, mut body) in [(COMPLETIONS, json!({"prompt": "x"})), (CHAT, chat)] {
        let whole = server.post(path, &body).await.json();
        for field in
            ["time_to_first_token_ms", "generation_time_ms", "queue_time_ms", "mean_itl_ms"]
        {
            assert!(
                whole["metrics"][field].as_f64().is_some_and(|ms| ms >= 0.0),
                "{field} {whole}"
            );
        }
        assert!(whole["metrics"]["tokens_per_second"].as_f64().unwrap() > 0.0);
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let chunks = server.post(path, &body).await.chunks();
        let with_times = chunks.iter().filter(|chunk| !chunk["metrics"].is_null()).count();
        assert_eq!(with_times, 1);
        assert!(chunks.last().unwrap()["metrics"]["queue_time_ms"].is_number());
        let untold = hello().post(path, &body).await;
        assert!(!untold.body.contains("metrics"));
    }
}
