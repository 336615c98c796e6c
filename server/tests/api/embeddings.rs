//! `POST /v1/embeddings`: bodies, the shapes of inputs, and errors.

use axum::http::StatusCode;
use expect_test::expect;
use quire_engine::PoolingParams;
use quire_engine::request::{FinishReason, Finished, StreamEvent};
use serde_json::{Value, json};

use crate::support::{Reply, TestServer, config, engine_info, started};

const PATH: &str = "/v1/embeddings";

/// The length of each input, its first and last token, and how many channels were asked for.
fn scripted() -> TestServer {
    TestServer::scripted(|request| {
        let PoolingParams { dimensions, normalize, .. } = request.pooling.expect("an embedding");
        let ends = [request.prompt.first(), request.prompt.last()].map(|id| *id.unwrap() as f32);
        let mut embedding = vec![request.prompt.len() as f32, ends[0], ends[1], 0.1];
        embedding.truncate(dimensions.map_or(4, |dimensions| dimensions as usize));
        if normalize == Some(false) {
            embedding[0] = -1.0;
        }
        finished(Some(embedding), FinishReason::Embedded)
    })
}

fn finished(embedding: Option<Vec<f32>>, reason: FinishReason) -> Vec<StreamEvent> {
    let finished =
        Finished { reason, num_prompt_tokens: 1, num_output_tokens: 0, num_cached_tokens: 0 };
    let embedding = embedding.map(StreamEvent::Embedding);
    [started()].into_iter().chain(embedding).chain([StreamEvent::Finished(finished)]).collect()
}

async fn embed(server: &TestServer, body: Value) -> Reply {
    server.post(PATH, &body).await
}

/// The numbers of each embedding.
async fn numbers(body: Value) -> Value {
    let reply = embed(&scripted(), body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    reply.json()["data"].as_array().unwrap().iter().map(|item| item["embedding"].clone()).collect()
}

#[tokio::test]
async fn a_whole_answer() {
    let body = json!({"model": "alias", "input": ["Hi", "there"], "user": "me"});
    let reply = embed(&scripted(), body).await;
    expect![[r#"
        {
          "id": "embd-ID",
          "object": "list",
          "created": 0,
          "model": "tiny",
          "data": [
            {
              "object": "embedding",
              "index": 0,
              "embedding": [
                2.0,
                72.0,
                105.0,
                0.1
              ]
            },
            {
              "object": "embedding",
              "index": 1,
              "embedding": [
                4.0,
                116.0,
                101.0,
                0.1
              ]
            }
          ],
          "usage": {
            "prompt_tokens": 6,
            "total_tokens": 6
          }
        }
    "#]]
    .assert_eq(&reply.pretty());
}

#[tokio::test]
async fn inputs_have_four_shapes_and_two_encodings() {
    assert_eq!(numbers(json!({"input": "abc"})).await, json!([[3.0, 97.0, 99.0, 0.1]]));
    assert_eq!(numbers(json!({"input": [7, 8]})).await, json!([[2.0, 7.0, 8.0, 0.1]]));
    let lists = json!({"input": [[7], [8, 9]]});
    assert_eq!(numbers(lists).await, json!([[1.0, 7.0, 7.0, 0.1], [2.0, 8.0, 9.0, 0.1]]));
    let cut = json!({"input": "abc", "dimensions": 2, "normalize": false});
    assert_eq!(numbers(cut).await, json!([[-1.0, 97.0]]));
    let base64 = json!({"input": "a", "encoding_format": "base64", "dimensions": 2});
    // 1.0 and 97.0 as float32, little-endian.
    assert_eq!(numbers(base64).await, json!(["AACAPwAAwkI="]));
}

#[tokio::test]
async fn long_inputs_are_refused_or_cut() {
    let long = "a".repeat(200);
    let reply = embed(&scripted(), json!({"input": ["a", long]})).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    let error = &reply.json()["error"];
    assert_eq!(
        (&error["param"], &error["code"]),
        (&json!("input"), &json!("context_length_exceeded"))
    );
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with("input 1: ") && message.contains("199 tokens"), "{message}");
    let cut =
        |tokens: i32| json!({"input": long, "truncate_prompt_tokens": tokens, "dimensions": 1});
    assert_eq!(numbers(cut(-1)).await, json!([[199.0]]));
    assert_eq!(numbers(cut(5)).await, json!([[5.0]]));
    assert_eq!(
        numbers(json!({"input": [1, 2, 3], "truncate_prompt_tokens": 2, "dimensions": 1})).await,
        json!([[2.0]])
    );
}

#[tokio::test]
async fn bad_requests_name_their_field() {
    for (fields, param) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": ""}), "input"),
        (json!({"input": [[]]}), "input"),
        (json!({"input": 7}), "input"),
        (json!({"input": ["a", 7]}), "input"),
        (json!({"input": [-1]}), "input"),
        (json!({"input": [300]}), "input"),
        (json!({"input": "a", "encoding_format": "hex"}), "encoding_format"),
        (json!({"input": "a", "dimensions": 0}), "dimensions"),
        (json!({"input": "a", "dimensions": 5}), "dimensions"),
        (json!({"input": "a", "dimensions": 1.5}), "dimensions"),
        (json!({"input": "a", "truncate_prompt_tokens": 0}), "truncate_prompt_tokens"),
        (json!({"input": "a", "truncate_prompt_tokens": -2}), "truncate_prompt_tokens"),
        (json!({"input": "a", "embed_dtype": "binary"}), "embed_dtype"),
        (json!({"input": "a", "messages": []}), "messages"),
        (json!({"input": "a", "model": "other"}), "model"),
    ] {
        let reply = embed(&scripted(), fields.clone()).await;
        assert!(reply.status.is_client_error(), "{fields}: {}", reply.body);
        assert_eq!(reply.json()["error"]["param"], param, "{fields}: {}", reply.body);
    }
    let mut config = config();
    config.limits.max_inputs = 2;
    let (server, _queue) = TestServer::with_queue(config, engine_info());
    let reply = embed(&server, json!({"input": ["a", "b", "c"]})).await;
    assert!(reply.body.contains("over 2 (--max-inputs)"), "{}", reply.body);
}

#[tokio::test]
async fn a_model_is_asked_only_for_what_it_does() {
    let mut info = engine_info();
    info.limits.tasks.generates = false;
    let (server, _queue) = TestServer::with_queue(config(), info);
    let messages = json!([{"role": "user", "content": "Hi"}]);
    for (path, body) in [
        ("/v1/completions", json!({"prompt": "Hi"})),
        ("/v1/chat/completions", json!({"messages": messages})),
    ] {
        let reply = server.post(path, &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert!(reply.body.contains("use /v1/embeddings"), "{}", reply.body);
    }
    let mut info = engine_info();
    info.limits.tasks.no_embeddings = Some("it is made of cheese".into());
    let (server, _queue) = TestServer::with_queue(config(), info);
    let reply = embed(&server, json!({"input": "Hi"})).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(reply.body.contains("made of cheese"), "{}", reply.body);
}

#[tokio::test]
async fn a_failure_of_one_input_is_the_requests() {
    let server = TestServer::scripted(|request| match request.prompt[0] {
        7 => finished(None, FinishReason::Error("not a number".into())),
        _ => finished(Some(vec![1.0]), FinishReason::Embedded),
    });
    let reply = embed(&server, json!({"input": [[1], [7], [2]]})).await;
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(reply.body.contains("not a number"));
}
