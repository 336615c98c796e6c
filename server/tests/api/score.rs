//! `POST /v1/score` and `POST /v1/rerank`: what is compared with what, bodies, and errors.

use axum::http::StatusCode;
use expect_test::expect;
use quire_engine::ScoreActivation;
use quire_engine::request::{FinishReason, Finished, StreamEvent};
use serde_json::{Value, json};

use crate::support::{Reply, TestServer, config, engine_info, started};

/// The first byte of a text is its direction: `a` and `b` are at right angles, `c` is nearer to `b`, `d` is against `a`.
fn server() -> TestServer {
    TestServer::scripted(|request| {
        let pooling = request.pooling.expect("an embedding");
        assert_eq!((pooling.dimensions, pooling.normalize), (None, Some(true)));
        let embedding = match request.prompt[0] as u8 {
            b'a' => vec![1.0, 0.0],
            b'b' => vec![0.0, 1.0],
            b'c' => vec![0.6, 0.8],
            _ => vec![-1.0, 0.0],
        };
        told(request, embedding)
    })
}

/// The logit is how many tokens the second text has, less three.
fn reranker() -> TestServer {
    let mut info = engine_info();
    info.limits.tasks.scores = Some(ScoreActivation::Sigmoid);
    info.limits.tasks.no_embeddings = Some("it is a reranker: use /v1/rerank".into());
    TestServer::scripted_as(info, |request| {
        let start = request.pooling.and_then(|pooling| pooling.second_text).expect("a pair");
        assert_eq!(request.prompt[..start as usize], [u32::from(b'q')]);
        told(request, vec![(request.prompt.len() - start as usize) as f32 - 3.0])
    })
}

fn told(request: &quire_engine::Request, embedding: Vec<f32>) -> Vec<StreamEvent> {
    let finished = Finished {
        reason: FinishReason::Embedded,
        num_prompt_tokens: request.prompt.len() as u32,
        num_output_tokens: 0,
        num_cached_tokens: 0,
    };
    vec![started(), StreamEvent::Embedding(embedding), StreamEvent::Finished(finished)]
}

/// Three digits are enough for what is written in float32.
fn rounded(scores: &Value, name: &str) -> Vec<f64> {
    let score = |item: &Value| (item[name].as_f64().unwrap() * 1000.0).round() / 1000.0;
    scores.as_array().unwrap().iter().map(score).collect()
}

async fn scores(body: Value) -> Vec<f64> {
    let reply = server().post("/score", &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    rounded(&reply.json()["data"], "score")
}

/// Indices and scores, the best first.
async fn ranked(body: Value) -> Vec<(u64, f64)> {
    let reply = server().post("/v2/rerank", &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    let results = &reply.json()["results"];
    let indices = results.as_array().unwrap().iter().map(|item| item["index"].as_u64().unwrap());
    indices.zip(rounded(results, "relevance_score")).collect()
}

#[tokio::test]
async fn a_whole_score() {
    let body = json!({"model": "tiny", "text_1": "a", "text_2": ["a", "bb"]});
    expect![[r#"
        {
          "id": "score-ID",
          "object": "list",
          "created": 0,
          "model": "tiny",
          "data": [
            {
              "index": 0,
              "object": "score",
              "score": 1.0
            },
            {
              "index": 1,
              "object": "score",
              "score": 0.0
            }
          ],
          "usage": {
            "prompt_tokens": 4,
            "total_tokens": 4
          }
        }
    "#]]
    .assert_eq(&server().post("/v1/score", &body).await.pretty());
}

#[tokio::test]
async fn one_text_meets_each_and_lists_meet_pair_by_pair() {
    assert_eq!(scores(json!({"text_1": "a", "text_2": "c"})).await, [0.6]);
    assert_eq!(scores(json!({"text_1": "a", "text_2": ["d", "c"]})).await, [-1.0, 0.6]);
    assert_eq!(scores(json!({"queries": ["a", "b"], "documents": ["c", "c"]})).await, [0.6, 0.8]);
    assert_eq!(scores(json!({"data_1": ["b"], "data_2": ["c", "a"]})).await, [0.8, 0.0]);
}

#[tokio::test]
async fn documents_are_ranked_by_what_is_near_the_query() {
    let documents = json!(["d", {"text": "c"}, "a", "aa"]);
    let body = |more: Value| {
        let mut body = json!({"query": "a", "documents": documents});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    // Equal ones stay in order.
    let all = [(2, 1.0), (3, 1.0), (1, 0.6), (0, -1.0)];
    assert_eq!(ranked(body(json!({}))).await, all);
    assert_eq!(ranked(body(json!({"top_n": 0}))).await, all);
    assert_eq!(ranked(body(json!({"top_n": 9}))).await, all);
    assert_eq!(ranked(body(json!({"top_n": 2}))).await, all[..2]);
    let told = server().post("/v1/rerank", &body(json!({"top_n": 1}))).await.json();
    assert_eq!(told["results"][0]["document"], json!({"text": "a"}));
    assert_eq!(told["usage"]["total_tokens"], 6);
    let bare = server().post("/rerank", &body(json!({"return_documents": false}))).await.json();
    assert!(bare["results"].as_array().unwrap().iter().all(|item| item.get("document").is_none()));
}

#[tokio::test]
async fn long_texts_are_refused_or_cut() {
    let long = "a".repeat(200);
    let blamed = |reply: &Reply, param: &str, words: &str| {
        let error = reply.json()["error"].clone();
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!(param), &json!("context_length_exceeded"))
        );
        assert!(error["message"].as_str().unwrap().starts_with(words), "{error}");
    };
    let documents = json!({"query": "a", "documents": ["a", long]});
    blamed(&server().post("/rerank", &documents).await, "documents", "documents: input 1: ");
    let query = json!({"query": long, "documents": ["a"]});
    blamed(&server().post("/rerank", &query).await, "query", "query: ");
    let second = json!({"text_1": "a", "text_2": long});
    blamed(&server().post("/score", &second).await, "text_2", "text_2: ");

    let tokens = async |more: Value| {
        let mut body = json!({"query": "a", "documents": [long, "c"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server().post("/rerank", &body).await.json()["usage"]["prompt_tokens"].clone()
    };
    assert_eq!(tokens(json!({"truncate_prompt_tokens": -1})).await, 201);
    assert_eq!(tokens(json!({"truncate_prompt_tokens": 5})).await, 7);
    assert_eq!(tokens(json!({"max_tokens_per_doc": 7})).await, 9);
    assert_eq!(tokens(json!({"max_tokens_per_doc": 7, "truncate_prompt_tokens": 5})).await, 7);
}

#[tokio::test]
async fn bad_requests_name_their_field() {
    for (path, fields, param) in [
        ("/score", json!({"text_2": "a"}), "text_1"),
        ("/score", json!({"text_1": "a"}), "text_2"),
        ("/score", json!({"text_1": "a", "text_2": null}), "text_2"),
        ("/score", json!({"text_1": "a", "text_2": []}), "text_2"),
        ("/score", json!({"text_1": "a", "text_2": ""}), "text_2"),
        ("/score", json!({"text_1": "a", "text_2": {"content": []}}), "text_2"),
        ("/score", json!({"text_1": ["a", "b"], "text_2": ["a"]}), "text_1"),
        ("/score", json!({"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}), "text_1"),
        ("/score", json!({"queries": 7, "documents": "a"}), "queries"),
        ("/score", json!({"text_1": "a", "text_2": "b", "model": "other"}), "model"),
        ("/score", json!({"text_1": "a", "text_2": "b", "priority": "high"}), "priority"),
        ("/rerank", json!({"documents": ["a"]}), "query"),
        ("/rerank", json!({"query": ["a"], "documents": ["a"]}), "query"),
        ("/rerank", json!({"query": "", "documents": ["a"]}), "query"),
        ("/rerank", json!({"query": "a"}), "documents"),
        ("/rerank", json!({"query": "a", "documents": []}), "documents"),
        ("/rerank", json!({"query": "a", "documents": "a"}), "documents"),
        ("/rerank", json!({"query": "a", "documents": ["a", 7]}), "documents"),
        ("/rerank", json!({"query": "a", "documents": ["a"], "top_n": -1}), "top_n"),
        (
            "/rerank",
            json!({"query": "a", "documents": ["a"], "rank_fields": ["title"]}),
            "rank_fields",
        ),
        (
            "/rerank",
            json!({"query": "a", "documents": ["a"], "max_tokens_per_doc": 0}),
            "max_tokens_per_doc",
        ),
        (
            "/rerank",
            json!({"query": "a", "documents": ["a"], "truncate_prompt_tokens": 0}),
            "truncate_prompt_tokens",
        ),
    ] {
        let reply = server().post(path, &fields).await;
        assert!(reply.status.is_client_error(), "{fields}: {}", reply.body);
        assert_eq!(reply.json()["error"]["param"], param, "{fields}: {}", reply.body);
    }
    let mut config = config();
    config.limits.max_inputs = 2;
    let (limited, _queue) = TestServer::with_queue(config, engine_info());
    let reply = limited.post("/rerank", &json!({"query": "a", "documents": ["a", "b", "c"]})).await;
    assert!(reply.body.contains("over 2 (--max-inputs)"), "{}", reply.body);
}

#[tokio::test]
async fn a_model_without_embeddings_ranks_nothing() {
    let mut info = engine_info();
    info.limits.tasks.no_embeddings = Some("it is made of cheese".into());
    for (path, body) in [
        ("/rerank", json!({"query": "a", "documents": ["a"]})),
        ("/score", json!({"text_1": "a", "text_2": "a"})),
    ] {
        let (server, _queue) = TestServer::with_queue(config(), info.clone());
        let reply = server.post(path, &body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert!(reply.body.contains("made of cheese"), "{}", reply.body);
    }
}

#[tokio::test]
async fn a_reranker_reads_both_texts_at_once() {
    let ask = async |path: &str, body: Value| reranker().post(path, &body).await;
    let body = json!({"query": "q", "documents": ["abc", "abcd", "a"]});
    let reply = ask("/v1/rerank", body.clone()).await.json();
    assert_eq!(rounded(&reply["results"], "relevance_score"), [0.731, 0.5, 0.119]);
    let indices = reply["results"].as_array().unwrap().iter().map(|item| item["index"].clone());
    assert!(indices.eq([1, 0, 2]));
    assert_eq!(reply["usage"]["prompt_tokens"], 11);
    let cut = json!({"query": "q", "documents": ["abcd"], "max_tokens_per_doc": 2});
    assert_eq!(ask("/rerank", cut).await.json()["usage"]["prompt_tokens"], 3);
    let raw = json!({"text_1": "q", "text_2": ["abcd", "a"], "use_activation": false});
    assert_eq!(rounded(&ask("/score", raw).await.json()["data"], "score"), [1.0, -2.0]);

    let long = "a".repeat(200);
    let reply = ask("/rerank", json!({"query": "q", "documents": ["a", long]})).await;
    let error = &reply.json()["error"];
    assert_eq!(
        (&error["param"], &error["code"]),
        (&json!("documents"), &json!("context_length_exceeded"))
    );
    let cut = json!({"query": "q", "documents": [long], "truncate_prompt_tokens": -1});
    assert_eq!(ask("/rerank", cut).await.json()["usage"]["prompt_tokens"], 199);
    for (path, body) in [
        ("/v1/embeddings", json!({"input": "a"})),
        ("/api/embed", json!({"model": "tiny", "input": "a"})),
    ] {
        let reply = ask(path, body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path}: {}", reply.body);
    }
    assert!(ask("/v1/embeddings", json!({"input": "a"})).await.body.contains("it is a reranker"));
}
