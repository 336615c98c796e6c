//! The document has what the parsers ask for, no more and no less.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::FutureExt;
use quire_engine::EngineHandle;
use quire_engine::handle::EngineInfo;
use quire_engine::validate::{RequestLimits, Tasks};
use tower::ServiceExt;

use super::doc::{Field, Kind};
use super::routes::doc_of;
use crate::app::{AppState, ROUTES, Route, ServerConfig, SharedState, router};
use crate::http::fields::{Fields, NeutralOnly, asked_fields};
use crate::metrics::Metrics;
use crate::model::{SamplingDefaults, ServedModel};
use crate::pull::Library;
use crate::text::{TemplateOptions, TextPipeline};

fn model() -> (ServedModel, quire_engine::handle::EngineQueue) {
    let tasks = Tasks {
        generates: true,
        hidden_size: 4,
        max_embedded_len: 99,
        no_embeddings: None,
        scores: None,
    };
    let limits = RequestLimits {
        vocab_size: 300,
        max_model_len: 200,
        max_logprobs: 5,
        max_token_list: 8,
        tasks,
    };
    let (handle, queue) = EngineHandle::new(EngineInfo {
        limits,
        max_num_queued: 16,
        max_num_seqs: 8,
        max_num_batched_tokens: 256,
        block_size: 16,
        num_blocks: 100,
    });
    let text = TextPipeline::placeholder(300, &TemplateOptions::default()).expect("it is made");
    (ServedModel::new(handle, Arc::new(text), SamplingDefaults::default()), queue)
}

/// A body for each of the ways that a route reads one, and one inside another.
const BODIES: &[(&str, &[&str])] = &[
    ("/v1/chat/completions", &[CHAT]),
    ("/v1/chat/completions/render", &[CHAT]),
    ("/v1/completions", &[r#"{"prompt": "x"}"#]),
    ("/v1/completions/render", &[r#"{"prompt": "x"}"#]),
    ("/inference/v1/generate", &[r#"{"token_ids": [1], "sampling_params": {"seed": 1}}"#]),
    ("/v1/embeddings", &[r#"{"input": "x"}"#]),
    ("/v1/score", SCORES),
    ("/score", SCORES),
    ("/v1/rerank", &[RERANK]),
    ("/v2/rerank", &[RERANK]),
    ("/rerank", &[RERANK]),
    ("/tokenize", &[r#"{"prompt": "x"}"#, CHAT]),
    ("/detokenize", &[r#"{"tokens": [1]}"#]),
    ("/v1/messages", &[MESSAGE]),
    ("/v1/messages/count_tokens", &[MESSAGE]),
    ("/v1/responses", &[r#"{"input": "x"}"#]),
    ("/v1/responses/input_tokens", &[r#"{"input": "x"}"#]),
    ("/api/show", &[r#"{"model": "default"}"#]),
    ("/api/generate", &[r#"{"model": "default", "prompt": "x"}"#]),
    (
        "/api/chat",
        &[r#"{"model": "default", "messages": [{"role": "user", "content": "x"}], "tools": []}"#],
    ),
    ("/api/embed", &[r#"{"model": "default", "input": "x"}"#]),
    ("/api/embeddings", &[r#"{"model": "default", "prompt": "x"}"#]),
    ("/api/pull", &[r#"{"model": "registry.invalid/a/b"}"#]),
    ("/api/create", &[r#"{"model": "new", "from": "old"}"#]),
    ("/api/copy", &[r#"{"source": "old", "destination": "new"}"#]),
    ("/api/delete", &[r#"{"model": "old"}"#]),
];

const SCORES: &[&str] = &[
    r#"{"text_1": "x", "text_2": "y"}"#,
    r#"{"queries": "x", "documents": "y"}"#,
    r#"{"queries": "x", "items": "y"}"#,
    r#"{"data_1": "x", "data_2": "y"}"#,
];
const RERANK: &str = r#"{"query": "x", "documents": ["y"]}"#;
const CHAT: &str = r#"{"messages": [{"role": "user", "content": "x"}]}"#;
const MESSAGE: &str = r#"{"max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}"#;

/// Sends `body` and looks what is asked of it before the engine or the disk is waited for.
fn asked(state: &SharedState, route: &Route, body: &str) -> BTreeMap<String, BTreeSet<String>> {
    asked_fields::take();
    let request = Request::builder().method(&route.method).uri(route.path);
    let request = request.header("content-type", "application/json");
    let request = request.body(Body::from(body.to_owned())).expect("it is one");
    let reply = router(Arc::clone(state), false).oneshot(request).now_or_never();
    let status = reply.map(|reply| reply.expect("it never fails").status());
    assert_ne!(status, Some(StatusCode::BAD_REQUEST), "{} {body}", route.path);
    asked_fields::take()
}

fn names(fields: &[&[Field]], unsupported: &[NeutralOnly], ignored: &[&str]) -> BTreeSet<String> {
    let fields = fields.iter().copied().flatten().map(|field| field.name);
    let unsupported = unsupported.iter().map(|field| field.0);
    let all = fields.chain(unsupported).chain(ignored.iter().copied());
    all.map(str::to_owned).collect()
}

#[tokio::test]
async fn the_fields_of_each_body_are_those_that_are_parsed() {
    let library = Library { models_dir: "nowhere".into(), ..Library::default() };
    let library = Some(Arc::new(library));
    let config = ServerConfig { library, open_management: true, ..ServerConfig::default() };
    let state = AppState::new(config, Metrics::install());
    let (model, _queue) = model();
    state.set_model(model);
    for route in ROUTES {
        let doc = doc_of(route.path);
        let Some((_, bodies)) = BODIES.iter().find(|(path, _)| *path == route.path) else {
            assert!(doc.fields.is_empty(), "{} has a body that no test knows", route.path);
            continue;
        };
        let mut outer = BTreeSet::new();
        for body in *bodies {
            let mut asked = asked(&state, route, body);
            outer.extend(asked.remove(*body).unwrap_or_default());
            for field in doc.fields.iter().copied().flatten() {
                let Kind::Object(fields, unsupported) = &field.kind else { continue };
                let inner = asked.remove(r#"{"seed": 1}"#).unwrap_or_default();
                assert_eq!(names(fields, unsupported, &[]), inner, "{} {}", route.path, field.name);
            }
        }
        let unsupported = doc.unsupported.iter().copied().flatten();
        let unsupported: Vec<_> = unsupported.map(|one| NeutralOnly(one.0, one.1)).collect();
        assert_eq!(names(doc.fields, &unsupported, doc.ignored), outer, "{}", route.path);
    }
}

#[test]
fn parsers_are_watched() {
    asked_fields::take();
    let mut fields = Fields::parse("{}").expect("an object");
    assert!(fields.take_bool("echo").is_ok_and(|echo| echo.is_none()));
    let expected = BTreeMap::from([("{}".to_owned(), BTreeSet::from(["echo".to_owned()]))]);
    assert_eq!(asked_fields::take(), expected);
}
