//! From loading to draining: probes, refusals, cancelling, and the way down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, StatusCode};
use http_body_util::BodyExt;
use quire_engine::handle::{EngineQueue, LastStep, Submission};
use quire_server::app::ServerConfig;
use quire_server::watchdog;
use serde_json::json;
use tower::ServiceExt;

use crate::support::{
    TestServer, answer, config, engine_info, http_only, json_request, started, token,
};

/// The status of `/livez`, `/startupz`, `/readyz`, `/health`, and the word that `/health` says.
async fn probes(server: &TestServer) -> ([u16; 4], String) {
    let mut statuses = [0; 4];
    let mut word = String::new();
    for (status, path) in statuses.iter_mut().zip(["/livez", "/startupz", "/readyz", "/health"]) {
        let reply = server.get(path).await;
        *status = reply.status.as_u16();
        reply.json()["status"].as_str().unwrap().clone_into(&mut word);
    }
    assert_eq!(server.get("/ping").await.status.as_u16(), statuses[2]);
    (statuses, word)
}

#[tokio::test]
async fn probes_follow_the_engine() {
    let mut config = config();
    config.engine_hang_timeout = Duration::ZERO;
    let server = TestServer::loading(config.clone());
    assert_eq!(probes(&server).await, ([200, 503, 503, 503], "loading".into()));
    for path in ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"] {
        let reply = server.post(path, &json!({})).await;
        assert_eq!(
            (reply.status, reply.header("retry-after")),
            (StatusCode::SERVICE_UNAVAILABLE, "5")
        );
    }

    let (server, queue) = TestServer::with_queue(config, engine_info());
    assert_eq!(probes(&server).await, ([200; 4], "ok".into()));
    // A turn that never ends.
    queue.begin_step(LastStep { number: 7, num_sequences: 2, num_tokens: 90 });
    queue.beat();
    wait_until(|| server.state.health() == quire_server::app::Health::Hung);
    assert_eq!(probes(&server).await, ([503, 200, 503, 503], "hung".into()));
    let has_ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&has_ended);
    let limit = Duration::from_millis(10);
    watchdog::start(&server.state, limit, move || end.store(true, Ordering::Release)).unwrap();
    wait_until(|| has_ended.load(Ordering::Acquire));
    queue.idle();
    assert_eq!(probes(&server).await, ([200; 4], "ok".into()));
    server.state.drain();
    assert_eq!(probes(&server).await, ([200, 200, 503, 503], "draining".into()));
    drop(queue);
    assert_eq!(probes(&server).await, ([503, 200, 503, 503], "stopped".into()));
}

#[tokio::test]
async fn draining_and_stopped_engines_refuse_with_503() {
    let (server, queue) = TestServer::with_queue(config(), engine_info());
    server.state.drain();
    let reply = server.post("/v1/completions", &json!({"prompt": "a"})).await;
    assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    assert_eq!(reply.json()["error"]["type"], "ServiceUnavailableError");
    drop(queue);

    let (server, queue) = TestServer::with_queue(config(), engine_info());
    drop(queue);
    let reply = server.post("/v1/completions", &json!({"prompt": "a"})).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_model_that_loads_after_the_signal_takes_nothing() {
    let server = TestServer::loading(config());
    server.state.drain();
    let (handle, _queue) = quire_engine::EngineHandle::new(engine_info());
    server.state.set_model(crate::support::served_model(handle));
    assert_eq!(probes(&server).await, ([200, 200, 503, 503], "draining".into()));
}

#[tokio::test]
async fn a_full_queue_is_503_and_takes_nothing_halfway() {
    let mut info = engine_info();
    info.max_num_queued = 3;
    let (server, queue) = TestServer::with_queue(config(), info);
    // Two wait, unread.
    let first = start_stream(&server, json!({"prompt": "a", "n": 2, "stream": true})).await;
    let reply = server.post("/v1/completions", &json!({"prompt": "a", "n": 2})).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
    let error = &reply.json()["error"];
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("ServiceUnavailableError"), &json!("queue_full"))
    );
    assert!(error["message"].as_str().unwrap().contains("--max-num-queued-reqs"));
    let metrics = server.get("/metrics").await.body;
    let rejections =
        r#"vllm:admission_rejections_total{model_name="tiny",reason="max_num_queued_reqs"} "#;
    let count = metrics.lines().find_map(|line| line.strip_prefix(rejections)).unwrap();
    assert_eq!(count, "1");

    let submissions: Vec<Submission> = std::iter::from_fn(|| queue.try_recv().unwrap()).collect();
    let closed: Vec<bool> = submissions.iter().map(|taken| taken.events.is_closed()).collect();
    assert_eq!(closed, [false, false, true]);
    drop(first);
    assert!(submissions.iter().all(|taken| taken.events.is_closed()));
}

/// The body of a response whose head has come.
async fn start_stream(server: &TestServer, body: serde_json::Value) -> Body {
    let request = json_request(Method::POST, "/v1/completions").body(Body::from(body.to_string()));
    let response = server.router.clone().oneshot(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body()
}

#[tokio::test]
async fn dropping_the_response_cancels() {
    let (server, queue) = TestServer::with_queue(config(), engine_info());
    let mut body = start_stream(&server, json!({"prompt": "a", "stream": true})).await;
    let submission = queue.recv().unwrap();
    assert!(submission.events.send(started()) && submission.events.send(token(65)));
    let frame = body.frame().await.unwrap().unwrap();
    assert!(frame.data_ref().unwrap().starts_with(b"data: "));
    assert!(!submission.events.is_closed());
    drop(body);
    assert!(submission.events.is_closed() && !submission.events.is_satisfied());
}

#[tokio::test]
async fn a_stop_string_cancels_the_rest() {
    let (server, queue) = TestServer::with_queue(config(), engine_info());
    let engine = thread::spawn(move || {
        let submission = queue.recv().unwrap();
        for event in answer(&submission.request, "never STOP").into_iter().take(11) {
            assert!(submission.events.send(event));
        }
        wait_until(|| submission.events.is_closed());
        // For the engine it is a stop, not a client that went away.
        assert!(submission.events.is_satisfied());
    });
    let reply = server.post("/v1/completions", &json!({"prompt": "a", "stop": "STOP"})).await;
    assert_eq!(reply.json()["choices"][0]["text"], "never ");
    engine.join().unwrap();
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "the state did not come");
        thread::yield_now();
    }
}

/// A server on a socket, with the means to stop it.
struct Running {
    stop: tokio::sync::oneshot::Sender<()>,
    done: tokio::task::JoinHandle<std::io::Result<()>>,
    server: TestServer,
    address: std::net::SocketAddr,
}

async fn run(config: ServerConfig) -> (Running, EngineQueue) {
    let (server, queue) = TestServer::with_queue(config, engine_info());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let state = Arc::clone(&server.state);
    let done = tokio::spawn(quire_server::serve::serve(http_only(listener), state, async {
        drop(stopped.await);
    }));
    (Running { stop, done, server, address }, queue)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutting_down_lets_running_answers_finish() {
    let (running, queue) = run(config()).await;
    let client = tokio::spawn(crate::connections::post(running.address, r#"{"prompt": "a"}"#));
    let submission = tokio::task::spawn_blocking(move || queue.recv().unwrap()).await.unwrap();
    running.stop.send(()).unwrap();
    wait_until(|| running.server.state.is_draining());
    let refused = crate::connections::post(running.address, r#"{"prompt": "b"}"#).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(!running.done.is_finished());
    for event in answer(&submission.request, "done") {
        assert!(submission.events.send(event));
    }
    let whole = client.await.unwrap();
    assert!(whole.starts_with("HTTP/1.1 200") && whole.contains("\"done\""), "{whole}");
    running.done.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_is_red_before_anyone_is_refused() {
    let delay = Duration::from_secs(2);
    let (running, queue) = run(ServerConfig { shutdown_delay: delay, ..config() }).await;
    assert_eq!(running.server.get("/v1/models").await.header("connection"), "");
    running.stop.send(()).unwrap();
    wait_until(|| running.server.state.is_leaving());
    assert_eq!(probes(&running.server).await, ([200, 200, 503, 503], "draining".into()));
    let engine = thread::spawn(move || {
        let submission = queue.recv().unwrap();
        let events = answer(&submission.request, "late but whole");
        events.into_iter().for_each(|event| assert!(submission.events.send(event)));
        queue
    });
    let reply = running.server.post("/v1/completions", &json!({"prompt": "a"})).await;
    assert_eq!((reply.status, reply.header("connection")), (StatusCode::OK, "close"));
    assert!(!running.server.state.is_draining(), "the machine was too slow for this test");
    running.done.await.unwrap().unwrap();
    assert!(running.server.state.is_draining());
    drop(engine.join().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_outlast_the_shutdown_end_with_abort() {
    let (running, queue) =
        run(ServerConfig { shutdown_timeout: Duration::from_millis(100), ..config() }).await;
    let client =
        tokio::spawn(crate::connections::post(running.address, r#"{"prompt": "a", "n": 2}"#));
    let (first, _second) =
        tokio::task::spawn_blocking(move || (queue.recv().unwrap(), queue.recv().unwrap()))
            .await
            .unwrap();
    assert!(first.events.send(started()) && first.events.send(token(65)));
    running.stop.send(()).unwrap();
    let whole = client.await.unwrap();
    assert!(whole.starts_with("HTTP/1.1 200"), "{whole}");
    assert_eq!(whole.matches(r#""finish_reason":"abort""#).count(), 2, "{whole}");
    running.done.await.unwrap().unwrap();
    assert!(first.events.is_closed());
}
