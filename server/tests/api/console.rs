//! `/console`: what its files carry, who sees what, and what a snapshot has.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use quire_engine::handle::SchedulerStats;
use quire_server::http::auth::ApiKey;
use serde_json::json;

use crate::support::{Reply, TestServer, config, engine_info};

const STATE: &str = "/console/state/default";
const ASSETS: [&str; 9] = [
    "console.css",
    "icon.svg",
    "theme.js",
    "main.js",
    "api.js",
    "text.js",
    "chat.js",
    "engine.js",
    "draw.js",
];

async fn files(server: &TestServer) -> Vec<(String, Reply)> {
    let mut files = vec![("/console".to_owned(), server.get("/console").await)];
    for name in ASSETS {
        let path = format!("/console/{name}");
        files.push((path.clone(), server.get(&path).await));
    }
    files
}

#[tokio::test]
async fn its_files_are_small_and_say_what_they_may_do() {
    let server = TestServer::loading(config());
    let mut num_bytes = 0;
    for (path, reply) in files(&server).await {
        assert_eq!(reply.status, StatusCode::OK, "{path}");
        let policy = reply.header("content-security-policy");
        for directive in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.split("; ").any(|own| own == directive), "{path}: {policy}");
        }
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{path}");
        let kind = match path.rsplit_once('.') {
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(reply.header("content-type"), kind, "{path}");
        num_bytes += reply.body.len();
    }
    assert!(num_bytes < 100_000, "{num_bytes} bytes");
    assert_eq!(server.get("/console/secret.js").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn no_text_becomes_markup() {
    let server = TestServer::loading(config());
    for (path, reply) in files(&server).await {
        for way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "DOMParser",
            "createContextualFragment",
            "srcdoc",
            "eval(",
            "new Function",
            "javascript:",
            " style=",
            " onclick=",
            "http://",
            "https://",
        ] {
            let text = reply.body.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains(way), "{path}: {way}");
        }
    }
}

#[tokio::test]
async fn browsers_keep_what_has_not_changed() {
    let server = TestServer::loading(config());
    for (path, first) in files(&server).await {
        let tag = first.header("etag");
        let again = |tag: String| Request::get(&path).header("if-none-match", tag);
        let same = server.send(again(tag.to_owned()).body(Body::empty()).unwrap()).await;
        assert_eq!((same.status, same.body.len()), (StatusCode::NOT_MODIFIED, 0), "{path}");
        let other = server.send(again("\"other\"".into()).body(Body::empty()).unwrap()).await;
        assert_eq!((other.status, &other.body), (StatusCode::OK, &first.body), "{path}");
    }
}

#[tokio::test]
async fn the_page_is_open_and_its_data_is_not() {
    let mut config = config();
    config.api_keys = vec![ApiKey::new("secret")];
    let (server, _queue) = TestServer::with_queue(config, engine_info());
    assert_eq!(server.get("/console").await.status, StatusCode::OK);
    assert_eq!(server.get(STATE).await.status, StatusCode::UNAUTHORIZED);
    let request = Request::get(STATE).header("authorization", "Bearer secret");
    let reply = server.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
}

#[tokio::test]
async fn without_it_nothing_is_there() {
    let mut config = config();
    config.console = false;
    let (server, _queue) = TestServer::with_queue(config, engine_info());
    for path in ["/console", "/console/main.js", STATE] {
        assert_eq!(server.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(server.get("/v1/models").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_snapshot_has_what_the_engine_counts() {
    let (server, queue) = TestServer::with_queue(config(), engine_info());
    queue.publish(SchedulerStats {
        num_running: 3,
        num_waiting: 2,
        num_blocks: 100,
        num_used_blocks: 40,
        num_cached_free_blocks: 10,
        prefix_cache_queries: 500,
        prefix_cache_hits: 125,
        num_preemptions: 1,
        ..SchedulerStats::default()
    });
    let reply = server.get(STATE).await.json();
    assert_eq!(reply["health"], "ready");
    assert_eq!(reply["models"][0]["name"], "tiny");
    assert_eq!(reply["models"][0]["is_loaded"], true);
    assert_eq!(reply["model"]["name"], "tiny");
    assert_eq!(reply["model"]["max_num_seqs"], 8);
    let replica = &reply["replicas"][0];
    assert_eq!((&replica["num_running"], &replica["num_waiting"]), (&json!(3), &json!(2)));
    assert_eq!(replica["num_used_blocks"], 40);
    assert_eq!(replica["num_cached_blocks"], 10);
    assert_eq!(replica["prefix_cache_hits"], 125);
    assert_eq!(replica["num_preemptions"], 1);
    // Other names of the model lead to it; unknown ones are errors.
    assert_eq!(server.get("/console/state/alias").await.json()["model"]["name"], "tiny");
    assert_eq!(server.get("/console/state/other").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn before_the_model_is_there_the_page_says_so() {
    let reply = TestServer::loading(config()).get(STATE).await;
    assert_eq!(reply.status, StatusCode::OK);
    let state = reply.json();
    assert_eq!((&state["health"], &state["model"]), (&json!("loading"), &json!(null)));
    assert_eq!(state["replicas"], json!([]));
}
