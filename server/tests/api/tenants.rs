//! Tenants of a keys file: whose request it is, what each may use, and a file that changes while it is served.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode};
use quire_engine::handle::EngineQueue;
use quire_server::app::{Access, ROUTES, ServerConfig};
use quire_server::grpc::{self, METHODS};
use quire_server::http::auth::ApiKey;
use quire_server::tenants::KeysFile;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;

use crate::support::{
    Reply, TestServer, config, engine_info, http_only, json_request, started, token, until,
};

/// A keys file of its own, gone when the test is.
struct File(PathBuf);

impl File {
    fn new(name: &str, tenants: &Value) -> Self {
        let path =
            std::env::temp_dir().join(format!("quire-tenants-{}-{name}", std::process::id()));
        let file = Self(path);
        file.write(&json!({"tenants": tenants}).to_string());
        file
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.0, text).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A tenant whose key is its name.
fn tenant(name: &str, mut rest: Value) -> Value {
    let digest =
        Sha256::digest(name).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    rest["name"] = json!(name);
    rest["keys_sha256"] = json!([digest]);
    rest
}

fn served(file: &File, max_num_queued: u32) -> (TestServer, EngineQueue) {
    let mut info = engine_info();
    info.max_num_queued = max_num_queued;
    let keys_file = Some(KeysFile::open(&file.0).unwrap());
    TestServer::with_queue(ServerConfig { keys_file, ..config() }, info)
}

fn ask(key: &str, body: &Value) -> Request<Body> {
    let request = json_request(Method::POST, "/v1/completions").header("x-api-key", key);
    request.body(Body::from(body.to_string())).unwrap()
}

fn stream() -> Value {
    json!({"prompt": "abc", "stream": true})
}

/// A stream that has begun: dropping it ends the request.
async fn begin(server: &TestServer, key: &str) -> Result<Body, StatusCode> {
    let response = server.router.clone().oneshot(ask(key, &stream())).await.unwrap();
    let status = response.status();
    if status == StatusCode::OK { Ok(response.into_body()) } else { Err(status) }
}

fn assert_refused(reply: &Reply, code: &str) {
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS, "{}", reply.body);
    assert_eq!(reply.json()["error"]["code"], code);
    assert!(reply.header("retry-after").parse::<u64>().unwrap() >= 1);
}

#[tokio::test]
async fn requests_and_tokens_a_minute_are_bounded_each_for_its_tenant() {
    let tenants = json!([
        tenant("few-requests", json!({"requests_per_minute": 2})),
        tenant("few-tokens", json!({"tokens_per_minute": 5})),
        tenant("free", json!({})),
    ]);
    let file = File::new("minute", &tenants);
    let (server, _queue) = served(&file, 100);
    let _first = begin(&server, "few-requests").await.unwrap();
    let _second = begin(&server, "few-requests").await.unwrap();
    let reply = server.send(ask("few-requests", &stream())).await;
    assert_refused(&reply, "rate_limit_exceeded");
    assert!(reply.header("retry-after").parse::<u64>().unwrap() <= 30);
    assert_eq!(reply.header("x-ratelimit-limit-requests"), "2");
    assert_eq!(reply.header("x-ratelimit-remaining-requests"), "0");
    assert!(reply.header("x-ratelimit-reset-requests").ends_with('s'));
    assert_eq!(reply.header("x-ratelimit-limit-tokens"), "");

    // The prompt takes nearly all, and the next one what is left and more.
    let _third = begin(&server, "few-tokens").await.unwrap();
    let _fourth = begin(&server, "few-tokens").await.unwrap();
    let reply = server.send(ask("few-tokens", &stream())).await;
    assert_refused(&reply, "rate_limit_exceeded");
    assert_eq!(reply.header("x-ratelimit-remaining-tokens"), "0");
    assert!(begin(&server, "free").await.is_ok());

    let metrics = server.send(ask_get("/metrics", "free")).await.body;
    for line in [
        r#"quire_tenant_refused_total{tenant="few-requests",reason="requests"} 1"#,
        r#"quire_tenant_refused_total{tenant="few-tokens",reason="tokens"} 1"#,
        r#"quire_tenant_requests_total{tenant="few-requests"} 2"#,
        r#"quire_tenant_requests_in_flight{tenant="few-requests"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

fn ask_get(path: &str, key: &str) -> Request<Body> {
    Request::get(path).header("authorization", format!("Bearer {key}")).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn concurrency_is_bounded_until_an_answer_ends() {
    let file = File::new("at-once", &json!([tenant("narrow", json!({"max_concurrency": 1}))]));
    let (server, _queue) = served(&file, 100);
    let running = begin(&server, "narrow").await.unwrap();
    assert_refused(&server.send(ask("narrow", &stream())).await, "rate_limit_exceeded");
    drop(running);
    assert!(begin(&server, "narrow").await.is_ok());
}

#[tokio::test]
async fn one_tenant_cannot_have_the_whole_queue() {
    let file = File::new("queue", &json!([tenant("flood", json!({})), tenant("other", json!({}))]));
    let (server, queue) = served(&file, 4);
    let mut waiting = Vec::new();
    let refused = loop {
        match begin(&server, "flood").await {
            Ok(body) => waiting.push(body),
            Err(status) => break status,
        }
    };
    assert_eq!((refused, waiting.len()), (StatusCode::TOO_MANY_REQUESTS, 2));
    assert!(begin(&server, "other").await.is_ok(), "room was left");
    // Whoever has a first token waits no more.
    let submission = queue.recv().unwrap();
    assert!(submission.events.send(started()) && submission.events.send(token(65)));
    let mut first = waiting.remove(0);
    http_body_util::BodyExt::frame(&mut first).await.unwrap().unwrap();
    queue.publish(quire_engine::handle::SchedulerStats::default());
    assert!(begin(&server, "flood").await.is_ok());
}

#[tokio::test]
async fn the_engine_is_told_whose_turn_it_is() {
    let settings = json!({"weight": 7, "priority_class": -2});
    let file = File::new("turn", &json!([tenant("plain", json!({})), tenant("first", settings)]));
    let (server, queue) = served(&file, 100);
    let _answers = [begin(&server, "plain").await.unwrap(), begin(&server, "first").await.unwrap()];
    let [plain, first] = [queue.recv().unwrap(), queue.recv().unwrap()].map(|s| s.request.tenant);
    assert_eq!((plain.weight, plain.class), (1, 0));
    assert_eq!((first.weight, first.class), (7, -2));
    assert_ne!(plain.index, first.index);
}

#[tokio::test]
async fn models_and_deadlines_are_those_of_the_tenant() {
    let tenants = json!([
        tenant("alias-only", json!({"models": ["alias"]})),
        tenant("elsewhere", json!({"models": ["other"]})),
        tenant("hasty", json!({"deadline_seconds": 0.05})),
    ]);
    let file = File::new("models", &tenants);
    let (server, _queue) = served(&file, 100);
    assert!(begin(&server, "alias-only").await.is_ok(), "one name of the model is enough");
    let reply = server.send(ask("elsewhere", &stream())).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert_eq!(reply.json()["error"]["code"], "model_not_allowed");
    let reply = server.send(ask("hasty", &json!({"prompt": "abc"}))).await;
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT, "{}", reply.body);
    assert_eq!(reply.json()["error"]["code"], "deadline_exceeded");
    // A client may ask for less time than it has.
    let mut request = ask("alias-only", &json!({"prompt": "abc"}));
    request.headers_mut().insert("x-request-timeout-ms", "30".parse().unwrap());
    assert_eq!(server.send(request).await.status, StatusCode::GATEWAY_TIMEOUT);
    let mut request = ask("alias-only", &stream());
    request.headers_mut().insert("x-request-timeout-ms", "soon".parse().unwrap());
    assert_eq!(server.send(request).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn keys_open_what_their_scopes_say_over_http_and_grpc() {
    let manager = tenant("manager", json!({"scopes": ["infer", "manage"]}));
    let file = File::new("scopes", &json!([tenant("user", json!({})), manager]));
    let keys_file = Some(KeysFile::open(&file.0).unwrap());
    let manage_keys = vec![ApiKey::new("root")];
    let config = ServerConfig { keys_file, manage_keys, ..config() };
    let (server, _queue) = TestServer::with_queue(config, engine_info());
    for route in ROUTES.iter().filter(|route| route.access == Access::Manage) {
        let path = route.path.replace("{digest}", "none");
        for (key, expected) in
            [("user", Some(403)), ("nobody", Some(401)), ("manager", None), ("root", None)]
        {
            let request = json_request(route.method.clone(), &path).header("x-api-key", key);
            let status = server.send(request.body(Body::from("{}")).unwrap()).await.status.as_u16();
            let refused = [401, 403].contains(&status).then_some(status);
            assert_eq!(refused, expected, "{path} {key}");
        }
    }
    for method in METHODS.iter().filter(|method| method.access != Access::Open) {
        for (key, is_known) in
            [("user", true), ("manager", true), ("root", true), ("nobody", false)]
        {
            let path = format!("/{}/{}", method.service, method.name);
            let request = Request::post(path)
                .header("content-type", "application/grpc")
                .header("authorization", format!("Bearer {key}"));
            let router = grpc::router(Arc::clone(&server.state));
            let response = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let status = response.headers().get("grpc-status").map(|value| value.to_str().unwrap());
            assert_eq!(status != Some("16"), is_known, "{method:?} {key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_refused_before_its_requests_are_read() {
    let file = File::new("unheard", &json!([tenant("loud", json!({"max_concurrency": 1}))]));
    let (server, _queue) = served(&file, 100);
    let unreadable = || {
        let request = json_request(Method::POST, "/v1/completions").header("x-api-key", "loud");
        request.body(Body::from("{")).unwrap()
    };
    assert_eq!(server.send(unreadable()).await.status, StatusCode::BAD_REQUEST);
    let _running = begin(&server, "loud").await.unwrap();
    assert_refused(&server.send(unreadable()).await, "rate_limit_exceeded");
    // A body that never comes is not waited for.
    let mut endless = unreadable();
    *endless.body_mut() =
        Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>());
    assert_refused(&server.send(endless).await, "rate_limit_exceeded");
    // What asks nothing of the engine is answered as ever.
    assert_eq!(server.send(ask_get("/v1/models", "loud")).await.status, StatusCode::OK);

    // Short bodies leave the connection as it was.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let state = Arc::clone(&server.state);
    tokio::spawn(quire_server::serve::serve(http_only(listener), state, std::future::pending()));
    let body = stream_body(2000);
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nx-api-key: loud\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    for _ in 0..3 {
        stream.write_all(head.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}}") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "closed");
        }
        assert!(answer.starts_with(b"HTTP/1.1 429"), "{}", String::from_utf8_lossy(&answer));
    }
}

/// A request with a prompt of so many bytes.
fn stream_body(num_bytes: usize) -> String {
    json!({"prompt": "a".repeat(num_bytes), "stream": true}).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_taken_and_a_broken_one_is_not() {
    let file = File::new("reload", &json!([tenant("reloaded", json!({"requests_per_minute": 9}))]));
    let (server, _queue) = served(&file, 100);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let state = Arc::clone(&server.state);
    let done = tokio::spawn(quire_server::serve::serve(http_only(listener), state, async {
        drop(stopped.await);
    }));
    let models = async |key: &str| server.send(ask_get("/v1/models", key)).await;
    let says = async |line: &str| {
        let body = server.send(ask_get("/metrics", "reloaded")).await.body;
        body.lines().any(|own| own == line)
    };
    assert_eq!(models("reloaded").await.header("x-ratelimit-limit-requests"), "9");
    assert_eq!(models("later").await.status, StatusCode::UNAUTHORIZED);
    until("the watch", async || says("quire_keys_file_ok 1").await).await;

    file.write(r#"{"tenants": [{"name": "reloaded", "weigth": 3}]}"#);
    until("a failed reload", async || says("quire_keys_file_ok 0").await).await;
    assert!(says(r#"quire_keys_file_reloads_total{result="failed"} 1"#).await);
    assert_eq!(models("reloaded").await.header("x-ratelimit-limit-requests"), "9");

    let tenants =
        [tenant("reloaded", json!({"requests_per_minute": 5})), tenant("later", json!({}))];
    file.write(&json!({"tenants": tenants}).to_string());
    until("a reload", async || models("later").await.status == StatusCode::OK).await;
    assert_eq!(models("reloaded").await.header("x-ratelimit-limit-requests"), "5");
    assert!(says("quire_keys_file_ok 1").await);
    stop.send(()).unwrap();
    done.await.unwrap().unwrap();
}
