//! `POST /v1/completions`, `/tokenize`, `/detokenize`, `/v1/models`: bodies and streams.

use axum::http::StatusCode;
use expect_test::expect;
use quire_engine::request::{DraftCount, FinishReason, Finished, StreamEvent};
use serde_json::{Value, json};

use crate::support::{Reply, TestServer, answer, started, text_of, token};

const PATH: &str = "/v1/completions";

fn hello() -> TestServer {
    TestServer::scripted(|request| answer(request, "Hello!"))
}

/// Answers with the prompt it was given.
fn parrot() -> TestServer {
    TestServer::scripted(|request| answer(request, &text_of(&request.prompt)))
}

async fn complete(server: &TestServer, fields: Value) -> Reply {
    let mut body = json!({"prompt": "Hi"});
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    server.post(PATH, &body).await
}

#[tokio::test]
async fn a_whole_answer() {
    expect![[r#"
        {
          "id": "cmpl-ID",
          "object": "text_completion",
          "created": 0,
          "model": "tiny",
          "choices": [
            {
              "index": 0,
              "text": "Hello!",
              "logprobs": null,
              "finish_reason": "stop",
              "stop_reason": null,
              "token_ids": null,
              "prompt_logprobs": null,
              "prompt_token_ids": null
            }
          ],
          "service_tier": null,
          "system_fingerprint": "quire-0.1.0",
          "usage": {
            "prompt_tokens": 2,
            "total_tokens": 9,
            "completion_tokens": 7,
            "prompt_tokens_details": {
              "cached_tokens": 2
            }
          },
          "kv_transfer_params": null
        }
    "#]]
    .assert_eq(&complete(&hello(), json!({})).await.pretty());
}

#[tokio::test]
async fn a_stream_with_usage() {
    let fields =
        json!({"stream": true, "stream_options": {"include_usage": true}, "max_tokens": 2});
    expect![[r#"
        {"id":"cmpl-ID","object":"text_completion","created":0,"model":"tiny","system_fingerprint":"quire-0.1.0","choices":[{"index":0,"text":"H","logprobs":null,"finish_reason":null,"stop_reason":null}]}
        {"id":"cmpl-ID","object":"text_completion","created":0,"model":"tiny","system_fingerprint":"quire-0.1.0","choices":[{"index":0,"text":"e","logprobs":null,"finish_reason":null,"stop_reason":null}]}
        {"id":"cmpl-ID","object":"text_completion","created":0,"model":"tiny","system_fingerprint":"quire-0.1.0","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"length","stop_reason":null}]}
        {"id":"cmpl-ID","object":"text_completion","created":0,"model":"tiny","system_fingerprint":"quire-0.1.0","choices":[],"usage":{"prompt_tokens":2,"total_tokens":4,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":2}}}
    "#]].assert_eq(&complete(&hello(), fields).await.stable_chunks());
}

/// Two steps with drafts: one of three was right, then both of two.
fn guessed() -> TestServer {
    TestServer::scripted(|_| {
        let drafts =
            |num_tokens, num_right| StreamEvent::Drafts(DraftCount { num_tokens, num_right });
        let mut events = vec![started(), token(72), drafts(3, 1), token(105), token(46)];
        events.extend([drafts(2, 2), token(46), token(46), token(33)]);
        events.push(StreamEvent::Finished(Finished {
            reason: FinishReason::Length,
            num_prompt_tokens: 1,
            num_output_tokens: 6,
            num_cached_tokens: 0,
        }));
        events
    })
}

#[tokio::test]
async fn guessed_tokens_are_in_the_usage() {
    let of = |accepted: u64, rejected: u64| {
        json!({
            "accepted_prediction_tokens": accepted,
            "rejected_prediction_tokens": rejected,
        })
    };
    let reply = complete(&guessed(), json!({"n": 2})).await.json();
    assert_eq!(reply["choices"][0]["text"], "Hi...!");
    assert_eq!(reply["usage"]["completion_tokens_details"], of(6, 4));
    // Where a stop string ends the answer, what was guessed before counts.
    let reply = complete(&guessed(), json!({"stop": "."})).await.json();
    assert_eq!(reply["usage"]["completion_tokens_details"], of(1, 2));
    let fields = json!({"stream": true, "stream_options": {"include_usage": true}});
    let chunks = complete(&guessed(), fields).await.chunks();
    let last = chunks.last().unwrap();
    assert_eq!(last["usage"]["completion_tokens_details"], of(3, 2));
}

#[tokio::test]
async fn prompts_have_four_shapes() {
    let server = parrot();
    let cases = [
        (json!("ab"), vec!["ab"]),
        (json!([97, 98]), vec!["ab"]),
        (json!(["ab", "c"]), vec!["ab", "c"]),
        (json!([[97, 98], [99]]), vec!["ab", "c"]),
        (json!("the<|im_start|>"), vec!["the<|im_start|>"]),
    ];
    for (prompt, expected) in cases {
        let fields = json!({"prompt": prompt, "n": 2, "seed": 1, "skip_special_tokens": false});
        let reply = complete(&server, fields).await.json();
        let choices = reply["choices"].as_array().unwrap();
        let texts: Vec<&str> = choices.iter().map(|c| c["text"].as_str().unwrap()).collect();
        let twice: Vec<&str> = expected.iter().flat_map(|&text| [text, text]).collect();
        assert_eq!(texts, twice, "{prompt}");
        let indices: Vec<u64> = choices.iter().map(|c| c["index"].as_u64().unwrap()).collect();
        assert_eq!(indices, (0..twice.len() as u64).collect::<Vec<_>>());
    }
    let reply = complete(&server, json!({"prompt": ["ab", "c"], "n": 2})).await.json();
    let usage = json!({
        "prompt_tokens": 3, "completion_tokens": 10, "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 4},
    });
    assert_eq!(reply["usage"], usage);
}

#[tokio::test]
async fn log_probabilities_are_parallel_lists() {
    let fields = json!({
        "prompt": "é", "echo": true, "logprobs": 2, "max_tokens": 2, "return_token_ids": true, "prompt_logprobs": 1,
    });
    let reply = complete(&hello(), fields).await.json();
    expect![[r#"
        {
          "index": 0,
          "text": "éHe",
          "logprobs": {
            "text_offset": [
              0,
              1,
              2,
              3
            ],
            "token_logprobs": [
              null,
              -0.5,
              -0.5,
              -0.5
            ],
            "tokens": [
              "�",
              "�",
              "H",
              "e"
            ],
            "top_logprobs": [
              null,
              {
                "�": -0.5
              },
              {
                "H": -0.5,
                "I": -1.5
              },
              {
                "e": -0.5,
                "f": -1.5
              }
            ]
          },
          "finish_reason": "length",
          "stop_reason": null,
          "token_ids": [
            72,
            101
          ],
          "prompt_logprobs": [
            null,
            {
              "169": {
                "logprob": -0.5,
                "rank": 1,
                "decoded_token": "�"
              }
            }
          ],
          "prompt_token_ids": [
            195,
            169
          ]
        }
    "#]]
    .assert_eq(&format!("{:#}\n", reply["choices"][0]));
}

#[tokio::test]
async fn log_probabilities_can_name_tokens_by_id() {
    let fields = json!({"logprobs": 0, "max_tokens": 1, "return_tokens_as_token_ids": true});
    let reply = complete(&hello(), fields).await.json();
    let logprobs = json!({
        "text_offset": [0], "token_logprobs": [-0.5], "tokens": ["token_id:72"],
        "top_logprobs": [{"token_id:72": -0.5}],
    });
    assert_eq!(reply["choices"][0]["logprobs"], logprobs);
}

#[tokio::test]
async fn echo_without_an_answer_scores_the_prompt() {
    let fields = json!({"echo": true, "max_tokens": 0, "logprobs": 0});
    let reply = complete(&hello(), fields).await.json();
    let choice = &reply["choices"][0];
    assert_eq!(choice["text"], "Hi");
    assert_eq!(choice["logprobs"]["tokens"], json!(["H", "i"]));
    assert_eq!(choice["logprobs"]["token_logprobs"], json!([null, -0.5]));
    assert_eq!(reply["usage"]["completion_tokens"], 0);
}

#[tokio::test]
async fn the_stream_says_what_the_whole_answer_says() {
    let server = TestServer::scripted(|request| answer(request, "one\n\ntwo STOP 🦀 …"));
    let cases = [
        json!({"max_tokens": 40}),
        json!({"max_tokens": 40, "stop": ["STOP", "…"], "include_stop_str_in_output": true}),
        json!({"max_tokens": 40, "logprobs": 2, "return_token_ids": true, "stop": "🦀"}),
        json!({"echo": true, "prompt": ["a", "the"], "n": 2}),
        json!({"echo": true, "max_tokens": 0}),
    ];
    for mut fields in cases {
        let whole = complete(&server, fields.clone()).await.json();
        fields["stream"] = json!(true);
        let chunks = complete(&server, fields.clone()).await.chunks();
        for choice in whole["choices"].as_array().unwrap() {
            let parts: Vec<&Value> = chunks
                .iter()
                .map(|chunk| &chunk["choices"][0])
                .filter(|part| part["index"] == choice["index"])
                .collect();
            let text: String = parts.iter().map(|part| part["text"].as_str().unwrap()).collect();
            assert_eq!(text, choice["text"], "{fields}");
            for list in ["text_offset", "token_logprobs", "tokens", "top_logprobs"] {
                assert_eq!(
                    joined(parts.iter().map(|part| &part["logprobs"][list])),
                    joined([&choice["logprobs"][list]].into_iter()),
                    "{list} {fields}"
                );
            }
            let ids = joined(parts.iter().map(|part| &part["token_ids"]));
            assert_eq!(ids, joined([&choice["token_ids"]].into_iter()), "{fields}");
            let last = parts.last().unwrap();
            assert_eq!(last["finish_reason"], choice["finish_reason"]);
            assert_eq!(last["stop_reason"], choice["stop_reason"]);
            assert!(parts[..parts.len() - 1].iter().all(|part| part["finish_reason"].is_null()));
        }
    }
}

/// The entries of lists that may be missing.
fn joined<'a>(lists: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    lists.flat_map(|list| list.as_array().cloned().unwrap_or_default()).collect()
}

#[tokio::test]
async fn text_and_tokens_are_exchanged() {
    let server = hello();
    let body = json!({"prompt": "the<|im_end|>é", "return_token_strs": true});
    let reply = server.post("/tokenize", &body).await;
    expect![[r#"
        {"count":5,"max_model_len":200,"tokens":[116,258,257,195,169],"token_strs":["t","he","<|im_end|>","Ã","©"]}
    "#]].assert_eq(&format!("{}\n", reply.body));
    let tokens = reply.json()["tokens"].clone();
    let reply = server.post("/detokenize", &json!({"tokens": tokens})).await;
    assert_eq!(reply.json(), json!({"prompt": "the<|im_end|>é"}));

    let messages = json!([{"role": "user", "content": "hey"}]);
    let body = json!({"messages": messages, "add_generation_prompt": false, "model": "alias"});
    let reply = server.post("/tokenize", &body).await.json();
    let tokens: Vec<u32> = serde_json::from_value(reply["tokens"].clone()).unwrap();
    assert_eq!(text_of(&tokens), "<|im_start|>user\nhey<|im_end|>\n");
    assert_eq!((&reply["count"], &reply["max_model_len"]), (&json!(tokens.len()), &json!(200)));

    for body in [json!({}), json!({"tokens": [300]}), json!({"tokens": "x"})] {
        let reply = server.post("/detokenize", &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert_eq!(reply.json()["error"]["param"], "tokens");
    }
}

#[tokio::test]
async fn long_texts_are_tokenized_elsewhere() {
    let text = "the quick brown fox ".repeat(1000);
    let reply = hello().post("/tokenize", &json!({"prompt": text})).await.json();
    let tokens: Vec<u32> = serde_json::from_value(reply["tokens"].clone()).unwrap();
    assert_eq!(text_of(&tokens), text);
}

#[tokio::test]
async fn models_are_listed_under_their_names() {
    let server = hello();
    let mut list = server.get("/v1/models").await.json();
    for card in list["data"].as_array_mut().unwrap() {
        assert!(card["created"].as_u64().unwrap() > 1_700_000_000);
        card["created"] = json!(0);
    }
    expect![[r#"
        {
          "object": "list",
          "data": [
            {
              "id": "tiny",
              "object": "model",
              "created": 0,
              "owned_by": "quire",
              "root": "tiny",
              "parent": null,
              "max_model_len": 200,
              "permission": []
            },
            {
              "id": "alias",
              "object": "model",
              "created": 0,
              "owned_by": "quire",
              "root": "tiny",
              "parent": null,
              "max_model_len": 200,
              "permission": []
            }
          ]
        }
    "#]]
    .assert_eq(&format!("{list:#}\n"));
    assert_eq!(server.get("/v1/models/alias").await.json()["id"], "alias");
    let reply = server.get("/v1/models/nobody").await;
    assert_eq!(
        (reply.status, reply.json()["error"]["param"].clone()),
        (StatusCode::NOT_FOUND, json!("model"))
    );
}
