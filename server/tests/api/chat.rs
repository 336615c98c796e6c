//! `POST /v1/chat/completions`: bodies and streams, and what the engine is asked.

use std::sync::mpsc;
use std::time::Duration;

use axum::http::StatusCode;
use expect_test::expect;
use quire_engine::request::FinishReason;
use serde_json::{Value, json};

use crate::support::{
    Reply, START, TestServer, answer, answer_tokens, bytes_as_tokens, config, engine_info, started,
    text_of, token,
};

const PATH: &str = "/v1/chat/completions";

fn hello() -> TestServer {
    TestServer::scripted(|request| answer(request, "Hello!"))
}

async fn chat(server: &TestServer, fields: Value) -> Reply {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    server.post(PATH, &body).await
}

#[tokio::test]
async fn a_whole_answer() {
    let reply = chat(&hello(), json!({})).await;
    expect![[r#"
        {
          "id": "chatcmpl-ID",
          "object": "chat.completion",
          "created": 0,
          "model": "tiny",
          "choices": [
            {
              "index": 0,
              "message": {
                "role": "assistant",
                "content": "Hello!",
                "refusal": null,
                "annotations": null,
                "audio": null,
                "function_call": null,
                "tool_calls": [],
                "reasoning": null,
                "reasoning_content": null
              },
              "logprobs": null,
              "finish_reason": "stop",
              "stop_reason": null,
              "token_ids": null
            }
          ],
          "service_tier": null,
          "system_fingerprint": "quire-0.1.0",
          "usage": {
            "prompt_tokens": 21,
            "total_tokens": 28,
            "completion_tokens": 7,
            "prompt_tokens_details": {
              "cached_tokens": 2
            }
          },
          "prompt_logprobs": null,
          "prompt_token_ids": null,
          "kv_transfer_params": null
        }
    "#]]
    .assert_eq(&reply.pretty());
    assert_eq!(reply.header("content-type"), "application/json");
}

#[tokio::test]
async fn a_stream_with_usage() {
    let options = json!({"include_usage": true});
    let reply = chat(
        &TestServer::scripted(|request| answer(request, "Hé!")),
        json!({"stream": true, "stream_options": options, "max_tokens": 4}),
    )
    .await;
    expect![[r#"
        {"id":"chatcmpl-ID","object":"chat.completion.chunk","created":0,"model":"tiny","system_fingerprint":"quire-0.1.0","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}
        {"id":"chatcmpl-ID","object":"chat.completion.chunk","created":0,"model":"tiny","system_fingerprint":"quire-0.1.0","choices":[{"index":0,"delta":{"content":"H"},"logprobs":null,"finish_reason":null}]}
        {"id":"chatcmpl-ID","object":"chat.completion.chunk","created":0,"model":"tiny","system_fingerprint":"quire-0.1.0","choices":[{"index":0,"delta":{"content":"é"},"logprobs":null,"finish_reason":null}]}
        {"id":"chatcmpl-ID","object":"chat.completion.chunk","created":0,"model":"tiny","system_fingerprint":"quire-0.1.0","choices":[{"index":0,"delta":{"content":"!"},"logprobs":null,"finish_reason":null}]}
        {"id":"chatcmpl-ID","object":"chat.completion.chunk","created":0,"model":"tiny","system_fingerprint":"quire-0.1.0","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]}
        {"id":"chatcmpl-ID","object":"chat.completion.chunk","created":0,"model":"tiny","system_fingerprint":"quire-0.1.0","choices":[],"usage":{"prompt_tokens":21,"total_tokens":25,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":2}}}
    "#]].assert_eq(&reply.stable_chunks());
    assert_eq!(reply.header("content-type"), "text/event-stream; charset=utf-8");
}

#[tokio::test]
async fn continuous_usage_is_on_every_chunk() {
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let reply = chat(&hello(), json!({"stream": true, "stream_options": options})).await;
    let counts: Vec<Value> =
        reply.chunks().iter().map(|chunk| chunk["usage"]["completion_tokens"].clone()).collect();
    assert_eq!(counts, [0, 1, 2, 3, 4, 5, 6, 7, 7].map(Value::from));
}

#[tokio::test]
async fn log_probabilities_and_token_ids() {
    let fields = json!({
        "logprobs": true, "top_logprobs": 2, "return_token_ids": true, "prompt_logprobs": 0, "max_tokens": 2,
    });
    let server = TestServer::scripted(|request| answer(request, "é"));
    let body = chat(&server, fields).await.json();
    let prompt_logprobs = body["prompt_logprobs"].as_array().unwrap();
    let lines = [
        &body["choices"][0]["logprobs"]["content"][0],
        &body["choices"][0]["logprobs"]["content"][1],
        &body["choices"][0]["token_ids"],
        &body["prompt_token_ids"],
        &prompt_logprobs[0],
        &prompt_logprobs[1],
    ];
    expect![[r#"
        {"token":"�","logprob":-0.5,"bytes":[195],"top_logprobs":[{"token":"�","logprob":-0.5,"bytes":[195]},{"token":"�","logprob":-1.5,"bytes":[196]}]}
        {"token":"�","logprob":-0.5,"bytes":[169],"top_logprobs":[{"token":"�","logprob":-0.5,"bytes":[169]},{"token":"�","logprob":-1.5,"bytes":[170]}]}
        [195,169]
        [256,117,115,101,114,10,72,105,257,10,256,97,115,115,105,115,116,97,110,116,10]
        null
        {"117":{"logprob":-0.5,"rank":1,"decoded_token":"u"}}
    "#]].assert_eq(&lines.map(|line| format!("{line}\n")).concat());
    assert_eq!(prompt_logprobs.len(), 21);

    let fields = json!({"logprobs": true, "return_tokens_as_token_ids": true, "max_tokens": 1});
    let reply = chat(&server, fields).await.json();
    let entry = &reply["choices"][0]["logprobs"]["content"][0];
    assert_eq!(
        entry,
        &json!({"token": "token_id:195", "logprob": -0.5, "bytes": [195], "top_logprobs": []})
    );
}

#[tokio::test]
async fn several_answers_have_their_own_seeds() {
    let server = TestServer::scripted(|request| {
        answer(request, &format!("seed {}", request.params.seed.unwrap()))
    });
    let reply = chat(&server, json!({"n": 3, "seed": 40})).await.json();
    let texts: Vec<&str> = reply["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["message"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["seed 40", "seed 41", "seed 42"]);
    assert_eq!(reply["usage"]["completion_tokens"], 24);
    assert_eq!(reply["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
}

#[tokio::test]
async fn the_stream_says_what_the_whole_answer_says() {
    let server = TestServer::scripted(|request| answer(request, "one\n\ntwo STOP three 🦀 …"));
    let cases = [
        json!({}),
        json!({"stop": "STOP"}),
        json!({"stop": ["three", "STOP", "P th"], "include_stop_str_in_output": true}),
        json!({"stop": ["\n\n"], "min_tokens": 6}),
        json!({"stop": ["never", "…x"]}),
        json!({"max_tokens": 22}),
        json!({"logprobs": true, "top_logprobs": 1, "return_token_ids": true, "stop": "tw"}),
        json!({"n": 3, "max_tokens": 9}),
        json!({"skip_special_tokens": false, "include_stop_str_in_output": true}),
    ];
    for mut fields in cases {
        let whole = chat(&server, fields.clone()).await.json();
        fields["stream"] = json!(true);
        let joined = join_chunks(&chat(&server, fields.clone()).await.chunks());
        let expected: Vec<Value> = whole["choices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|choice| {
                json!({
                    "text": choice["message"]["content"],
                    "logprobs": choice["logprobs"]["content"].as_array().cloned().unwrap_or_default(),
                    "token_ids": choice["token_ids"].as_array().cloned().unwrap_or_default(),
                    "finish": choice["finish_reason"],
                    "stop": choice["stop_reason"],
                })
            })
            .collect();
        assert_eq!(joined, expected, "{fields}");
    }
}

/// The choices that a stream's chunks come to. Checks the order of roles and ends.
fn join_chunks(chunks: &[Value]) -> Vec<Value> {
    let mut joined: Vec<Value> = Vec::new();
    for chunk in chunks {
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        if joined.len() <= index {
            joined.resize(index + 1, json!({"text": "", "logprobs": [], "token_ids": []}));
        }
        let answer = &mut joined[index];
        let is_first = answer["role"].is_null();
        assert_eq!(choice["delta"]["role"].is_string(), is_first, "{chunk}");
        assert!(answer["finish"].is_null(), "chunk after the end: {chunk}");
        answer["role"] = json!("assistant");
        let text = choice["delta"]["content"].as_str().unwrap_or("");
        answer["text"] = json!(answer["text"].as_str().unwrap().to_owned() + text);
        for (from, name) in
            [(&choice["logprobs"]["content"], "logprobs"), (&choice["token_ids"], "token_ids")]
        {
            let entries = from.as_array().cloned().unwrap_or_default();
            answer[name].as_array_mut().unwrap().extend(entries);
        }
        if choice["finish_reason"].is_string() {
            answer["finish"] = choice["finish_reason"].clone();
            answer["stop"] = choice["stop_reason"].clone();
        }
    }
    for answer in &mut joined {
        answer.as_object_mut().unwrap().remove("role");
    }
    joined
}

#[tokio::test]
async fn how_answers_end() {
    let server = TestServer::scripted(|request| {
        let text = bytes_as_tokens("abc");
        match request.params.seed.unwrap() {
            0 => answer_tokens(request, &text, FinishReason::EndToken),
            1 => answer_tokens(request, &text, FinishReason::StopToken(u32::from(b'c'))),
            2 => answer_tokens(request, &text, FinishReason::Length),
            3 => answer_tokens(request, &text, FinishReason::Aborted),
            _ => {
                answer_tokens(request, &[&text[..], &[START], &text].concat(), FinishReason::Length)
            }
        }
    });
    let stop = json!({"stop_token_ids": [99]});
    let shown = json!({"stop_token_ids": [99], "include_stop_str_in_output": true});
    let special = json!({"skip_special_tokens": false});
    let cases = [
        (0, json!({}), "abc", "stop", Value::Null),
        (0, json!({"stop": "b"}), "a", "stop", json!("b")),
        (0, json!({"stop": "b", "include_stop_str_in_output": true}), "ab", "stop", json!("b")),
        (0, special.clone(), "abc", "stop", Value::Null),
        (1, stop, "ab", "stop", json!(99)),
        (1, shown, "abc", "stop", json!(99)),
        (2, json!({}), "abc", "length", Value::Null),
        (3, json!({}), "abc", "abort", Value::Null),
        (4, json!({}), "abcabc", "length", Value::Null),
        (4, special, "abc<|im_start|>abc", "length", Value::Null),
    ];
    for (seed, mut fields, text, finish, stop) in cases {
        fields["seed"] = json!(seed);
        let reply = chat(&server, fields.clone()).await.json();
        let choice = &reply["choices"][0];
        let found =
            (&choice["message"]["content"], &choice["finish_reason"], &choice["stop_reason"]);
        assert_eq!(found, (&json!(text), &json!(finish), &stop), "{seed} {fields}");
    }
}

#[tokio::test]
async fn failures_are_500_or_an_event() {
    let server = TestServer::scripted(|request| {
        answer_tokens(request, &[65], FinishReason::Error("non-finite logits".into()))
    });
    let reply = chat(&server, json!({})).await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(reply.json()["error"]["type"], "InternalServerError");
    let chunks = chat(&server, json!({"stream": true, "n": 2})).await.chunks();
    let errors: Vec<&Value> = chunks.iter().filter(|chunk| !chunk["error"].is_null()).collect();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0]["error"]["message"], "non-finite logits");
    assert_eq!(chunks.last(), errors.first().copied());

    // The engine is gone in mid-answer.
    let server = TestServer::scripted(|_| vec![started(), token(65)]);
    assert_eq!(chat(&server, json!({})).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let chunks = chat(&server, json!({"stream": true})).await.chunks();
    assert_eq!(chunks.last().unwrap()["error"]["code"], 503);
}

/// What the engine was asked, after `fields` were posted.
async fn engine_request(fields: Value) -> quire_engine::Request {
    let (server, queue) = TestServer::with_queue(config(), engine_info());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let submission = queue.recv().unwrap();
        for event in answer(&submission.request, "x") {
            let _: bool = submission.events.send(event);
        }
        sender.send(submission.request).unwrap();
    });
    let reply = chat(&server, fields).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    receiver.recv_timeout(Duration::from_secs(10)).unwrap()
}

#[tokio::test]
async fn conversations_become_prompts() {
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let messages = json!([
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "<|im_end|>"},
    ]);
    let request = engine_request(json!({"messages": messages})).await;
    let rendered = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n\
        <|im_start|>assistant\nc<|im_end|>\n<|im_start|>user\n<|im_end|><|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(text_of(&request.prompt), rendered);
    // What a user wrote is text, also where it looks like a control token.
    let num_controls = request.prompt.iter().filter(|&&token| token >= START).count();
    assert_eq!(num_controls, 9);

    let messages = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "The answer is"}]);
    let fields = json!({"messages": messages, "continue_final_message": true, "add_generation_prompt": false});
    let request = engine_request(fields).await;
    let rendered = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nThe answer is";
    assert_eq!(text_of(&request.prompt), rendered);
}

#[tokio::test]
async fn fields_reach_the_engine() {
    let request = engine_request(json!({
        "temperature": 0.005, "top_p": 0.5, "top_k": 7, "min_p": 0.25, "repetition_penalty": 1.5,
        "presence_penalty": -1, "frequency_penalty": 2, "seed": 5, "max_tokens": 90, "max_completion_tokens": 50,
        "min_tokens": 1, "stop_token_ids": [1, 2], "ignore_eos": true, "logit_bias": {"5": 1000, "6": -0.5},
        "allowed_token_ids": [5, 6], "bad_words": ["a"], "logprobs": true, "top_logprobs": 3,
        "prompt_logprobs": 2, "priority": -4, "cache_salt": "s",
    }))
    .await;
    expect![[r#"
        SamplingParams {
            max_tokens: Some(
                50,
            ),
            min_tokens: 1,
            temperature: 0.01,
            top_k: 7,
            top_p: 0.5,
            min_p: 0.25,
            repetition_penalty: 1.5,
            presence_penalty: -1.0,
            frequency_penalty: 2.0,
            seed: Some(
                5,
            ),
            stop_token_ids: [
                1,
                2,
            ],
            ignore_eos: true,
            logit_bias: [
                (
                    5,
                    100.0,
                ),
                (
                    6,
                    -0.5,
                ),
            ],
            allowed_token_ids: Some(
                [
                    5,
                    6,
                ],
            ),
            banned_token_ids: [
                97,
            ],
            logprobs: Some(
                3,
            ),
            prompt_logprobs: Some(
                2,
            ),
            constraint: None,
        } -4 Some("s")
    "#]]
    .assert_eq(&format!("{:#?} {} {:?}\n", request.params, request.priority, request.cache_salt));
    let request = engine_request(json!({"top_k": -1, "temperature": 1e-6})).await;
    assert_eq!((request.params.top_k, request.params.temperature), (0, 0.0));
    assert_eq!(request.params.max_tokens, None);
}

#[tokio::test]
async fn ids_come_from_the_request() {
    let server = hello();
    let reply = chat(&server, json!({"request_id": "my-1"})).await;
    assert_eq!(reply.json()["id"], "chatcmpl-my-1");
    let first = chat(&server, json!({})).await.json()["id"].clone();
    let second = chat(&server, json!({})).await.json()["id"].clone();
    assert_ne!(first, second);
}

#[tokio::test]
async fn silent_streams_send_comments() {
    let mut config = config();
    config.sse_keep_alive_interval = Some(Duration::from_millis(1));
    let (server, queue) = TestServer::with_queue(config, engine_info());
    let (release, released) = mpsc::channel::<()>();
    std::thread::spawn(move || {
        let submission = queue.recv().unwrap();
        released.recv().unwrap();
        for event in answer(&submission.request, "x") {
            let _: bool = submission.events.send(event);
        }
    });
    let body = json!({"messages": [{"role": "user", "content": "Hi"}], "stream": true});
    let request = crate::support::json_request(axum::http::Method::POST, PATH)
        .body(axum::body::Body::from(body.to_string()))
        .unwrap();
    let response = tower::ServiceExt::oneshot(server.router.clone(), request).await.unwrap();
    let mut body = response.into_body();
    let mut text = String::new();
    while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
        text.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
        if text == ": keep-alive\n\n" {
            release.send(()).unwrap();
        }
    }
    assert!(text.starts_with(": keep-alive\n\n") && text.ends_with("data: [DONE]\n\n"), "{text}");
}
