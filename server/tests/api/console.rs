//! `/console`: what its files carry, who sees what, and what a snapshot has.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use quire_engine::handle::{EngineQueue, SchedulerStats, Woken};
use quire_engine::view::{
    BlockCell, EngineView, RequestCounts, RequestState, RequestTimes, RequestView, TokenTotals,
};
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

/// A request that came `age` ago.
fn request(id: u64, state: RequestState, age: Duration) -> RequestView {
    let ms = Duration::from_millis;
    RequestView {
        id,
        state,
        arrival: Instant::now().checked_sub(age).unwrap(),
        times: RequestTimes { e2e: ms(60), queue: ms(10), prefill: ms(20), decode: ms(30) },
        counts: RequestCounts {
            prompt: 50,
            cached: 32,
            output: 7,
            preemptions: 1,
            max_tokens: None,
        },
    }
}

/// Answers all looks with more than a page takes; returns how many there were.
fn be_looked_at(queue: EngineQueue, max_cells: u32) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut num_looks = 0;
        while let Ok(Woken::ByLook(look)) = queue.wait() {
            assert_eq!(look.max_cells, max_cells);
            let states = |states: [RequestState; 2], from: u64| -> Vec<RequestView> {
                let state = |id: u64| states[usize::from(id.is_multiple_of(2))];
                (0..100)
                    .map(|id| request(from + id, state(id), Duration::from_secs(500 - id)))
                    .collect()
            };
            let ended = [RequestState::Ended("stop"), RequestState::Ended("error")];
            look.answer(EngineView {
                totals: TokenTotals { num_prompt_tokens: 5000, num_generated_tokens: 700 },
                blocks: vec![BlockCell::default(); max_cells as usize],
                live: states([RequestState::Running, RequestState::Waiting], 100),
                ended: states(ended, 0),
            });
            num_looks += 1;
        }
        num_looks
    })
}

#[tokio::test]
async fn a_snapshot_is_of_bounded_size_and_says_nothing_of_texts() {
    let (server, queue) = TestServer::with_queue(config(), engine_info());
    let engine = be_looked_at(queue, 512);
    let reply = server.get(STATE).await;
    assert!(reply.body.len() < 64 << 10, "{} bytes", reply.body.len());
    let state = reply.json();
    let replica = &state["replicas"][0];
    assert_eq!(replica["num_prompt_tokens"], 5000);
    assert_eq!(replica["num_generated_tokens"], 700);
    assert_eq!(replica["blocks"].as_array().unwrap().len(), 512);
    let requests = state["requests"].as_array().unwrap();
    assert_eq!(requests.len(), 128);
    let num = |state: &str| requests.iter().filter(|own| own["state"] == state).count();
    assert_eq!(["running", "waiting", "stop", "error"].map(num), [50, 14, 32, 32]);
    let mut row = requests[0].clone();
    assert!(row["age_ms"].as_f64().unwrap() > 400_000.0, "the last to come is first");
    row["age_ms"] = json!(0);
    let expected = json!({
        "id": "199", "state": "running", "age_ms": 0, "queue_ms": 10.0, "prefill_ms": 20.0, "decode_ms": 30.0,
        "num_prompt_tokens": 50, "num_cached_tokens": 32, "num_output_tokens": 7, "num_preemptions": 1,
    });
    assert_eq!(row, expected);
    // Many pages cost no more than one.
    let again = futures_util::future::join_all((0..50).map(|_| server.get(STATE))).await;
    assert!(again.iter().all(|own| own.status == StatusCode::OK));
    drop(server);
    assert!(engine.join().unwrap() < 20, "each of 51 looked");
}

#[tokio::test]
async fn an_engine_that_does_not_answer_is_not_waited_for() {
    let (server, queue) = TestServer::with_queue(config(), engine_info());
    queue.publish(SchedulerStats { num_running: 3, ..SchedulerStats::default() });
    let state = server.get(STATE).await.json();
    assert_eq!((&state["requests"], &state["replicas"][0]["blocks"]), (&json!(null), &json!(null)));
    assert_eq!(state["replicas"][0]["num_running"], 3);
}

#[tokio::test]
async fn before_the_model_is_there_the_page_says_so() {
    let reply = TestServer::loading(config()).get(STATE).await;
    assert_eq!(reply.status, StatusCode::OK);
    let state = reply.json();
    assert_eq!((&state["health"], &state["model"]), (&json!("loading"), &json!(null)));
    assert_eq!(state["replicas"], json!([]));
}
