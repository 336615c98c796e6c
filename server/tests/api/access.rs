//! Who may call what: keys, hosts, origins; and what every response carries.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use quire_server::app::{self, Access, ROUTES};
use quire_server::http::{auth::ApiKey, observe};
use serde_json::json;

use crate::support::{Reply, TestServer, answer, config, engine_info, json_request};

fn with_keys(metrics_without_key: bool) -> TestServer {
    let mut config = config();
    config.api_keys = vec![ApiKey::new("first"), ApiKey::new("second")];
    config.metrics_without_key = metrics_without_key;
    // The queue is dropped: the engine has stopped, which no refusal may depend on.
    TestServer::with_queue(config, engine_info()).0
}

/// A request that says nothing but who it is.
fn knock(method: &Method, path: &str, authorization: Option<&str>) -> Request<Body> {
    let path = path.replace("{id}", "tiny").replace("{digest}", "none");
    let path = path.replace("{asset}", "main.js").replace("{model}", "tiny");
    let mut builder = json_request(method.clone(), &path);
    if let Some(value) = authorization {
        builder = builder.header("authorization", value);
    }
    builder.body(Body::from("{}")).unwrap()
}

#[tokio::test]
async fn every_route_but_probes_asks_for_a_key() {
    let server = with_keys(false);
    for route in ROUTES {
        for wrong in
            [None, Some("Bearer wrong"), Some("Bearer "), Some("Basic first"), Some("first")]
        {
            let reply = server.send(knock(&route.method, route.path, wrong)).await;
            let is_refused = reply.status == StatusCode::UNAUTHORIZED;
            let is_open = matches!(route.access, Access::Open | Access::Page);
            assert_eq!(is_refused, !is_open, "{} {wrong:?}", route.path);
            if is_refused {
                assert_eq!(reply.json()["error"]["code"], "invalid_api_key");
                assert_eq!(reply.header("www-authenticate"), "Bearer");
            }
        }
        for right in ["Bearer first", "bearer second"] {
            let reply = server.send(knock(&route.method, route.path, Some(right))).await;
            assert_ne!(reply.status, StatusCode::UNAUTHORIZED, "{}", route.path);
        }
    }
    for path in ["/nowhere", "/v1/models/", "/docs"] {
        let reply = server.send(knock(&Method::GET, path, None)).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    let open: Vec<&str> =
        ROUTES.iter().filter(|r| r.access == Access::Open).map(|r| r.path).collect();
    assert_eq!(open, ["/livez", "/startupz", "/readyz", "/health", "/ping", "/"]);
}

#[tokio::test]
async fn metrics_can_be_opened() {
    assert_eq!(with_keys(true).get("/metrics").await.status, StatusCode::OK);
    assert_eq!(with_keys(true).get("/v1/models").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn keys_are_asked_for_before_the_body() {
    let server = with_keys(false);
    let endless = futures_util::stream::pending::<Result<String, std::convert::Infallible>>();
    let request = json_request(Method::POST, "/v1/completions").body(Body::from_stream(endless));
    assert_eq!(server.send(request.unwrap()).await.status, StatusCode::UNAUTHORIZED);
}

async fn from_host(server: &TestServer, headers: &[(&str, &str)]) -> Reply {
    let router = app::router(Arc::clone(&server.state), true);
    let mut request = Request::get("/version");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let guarded = TestServer { state: Arc::clone(&server.state), router };
    guarded.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn loopback_refuses_foreign_hosts_and_origins() {
    let mut config = config();
    config.allowed_hosts = vec!["quire.internal".into()];
    config.allowed_origins = vec!["https://app.example".into()];
    let (server, _queue) = TestServer::with_queue(config, engine_info());
    let cases: [(&[(&str, &str)], u16); 14] = [
        (&[("host", "localhost:8000")], 200),
        (&[("host", "127.0.0.1")], 200),
        (&[("host", "[::1]:8000")], 200),
        (&[("host", "Quire.Internal:80")], 200),
        (&[], 200),
        (&[("host", "evil.example")], 403),
        (&[("host", "localhost.evil.example")], 403),
        (&[("host", "127.0.0.1.nip.io:8000")], 403),
        (&[("host", "a b")], 403),
        (&[("host", "localhost"), ("origin", "http://localhost:3000")], 200),
        (&[("host", "localhost"), ("origin", "https://app.example")], 200),
        (&[("host", "localhost"), ("origin", "https://evil.example")], 403),
        (&[("host", "localhost"), ("origin", "null")], 403),
        (&[("host", "localhost"), ("origin", "http://localhost@evil.example")], 403),
    ];
    for (headers, status) in cases {
        let reply = from_host(&server, headers).await;
        assert_eq!(reply.status.as_u16(), status, "{headers:?} {}", reply.body);
    }
}

#[tokio::test]
async fn cors_is_off_unless_origins_are_listed() {
    let preflight = || {
        Request::options("/v1/completions")
            .header("origin", "https://app.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type")
            .body(Body::empty())
            .unwrap()
    };
    let allowed = "access-control-allow-origin";
    let mut config = config();
    let (server, _queue) = TestServer::with_queue(config.clone(), engine_info());
    assert_eq!(server.send(preflight()).await.header(allowed), "");

    config.allowed_origins = vec!["https://app.example".into()];
    config.api_keys = vec![ApiKey::new("key")];
    let (server, _queue) = TestServer::with_queue(config, engine_info());
    let reply = server.send(preflight()).await;
    assert_eq!((reply.status, reply.header(allowed)), (StatusCode::OK, "https://app.example"));
    let mut foreign = preflight();
    foreign.headers_mut().insert("origin", "https://evil.example".parse().unwrap());
    assert_eq!(server.send(foreign).await.header(allowed), "");
}

#[tokio::test]
async fn unknown_routes_and_methods_have_the_error_shape() {
    let server = TestServer::scripted(|request| answer(request, "x"));
    let cases = [
        (Method::GET, "/nowhere", 404, "NotFoundError"),
        (Method::GET, "/v1/completions", 405, "MethodNotAllowedError"),
        (Method::DELETE, "/v1/models", 405, "MethodNotAllowedError"),
    ];
    for (method, path, status, kind) in cases {
        let reply = server.send(knock(&method, path, None)).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["error"]["type"]), (status, &json!(kind)));
    }
    let request = Request::post("/v1/completions").body(Body::from(r#"{"prompt": "a"}"#)).unwrap();
    let reply = server.send(request).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    let message = &reply.json()["error"]["message"];
    assert_eq!(message, "Unsupported Media Type: Only 'application/json' is allowed");
}

#[tokio::test]
async fn request_ids_are_echoed_when_safe() {
    let server = TestServer::scripted(|request| answer(request, "x"));
    let long = "x".repeat(129);
    for (given, is_kept) in
        [("trace-1.a:b_C", true), ("a b", false), ("<x>", false), (&long, false)]
    {
        let request = json_request(Method::POST, "/v1/completions")
            .header("x-request-id", given)
            .body(Body::from(r#"{"prompt": "a"}"#));
        let reply = server.send(request.unwrap()).await;
        assert_eq!(reply.header("x-request-id") == given, is_kept, "{given}");
        assert_eq!(reply.json()["id"] == format!("cmpl-{given}"), is_kept, "{given}");
        assert!(!reply.header("x-request-id").is_empty());
    }
}

#[tokio::test]
async fn metrics_have_fixed_labels_and_start_at_zero() {
    let server = TestServer::scripted(|request| answer(request, "x"));
    let before = server.get("/metrics").await;
    assert_eq!(before.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    for series in [
        r#"http_requests_total{handler="/v1/chat/completions",method="POST",status="5xx"} 0"#,
        "quire_build_info{version=",
        "vllm:cache_config_info{",
        r#"vllm:admission_rejections_total{model_name="tiny",reason="max_num_queued_reqs"}"#,
        "process_resident_memory_bytes ",
        "process_cpu_seconds_total ",
        "process_open_fds ",
        "process_max_fds ",
        "process_virtual_memory_bytes ",
        r#"quire_state{state="ready"} 1"#,
        r#"quire_state{state="draining"} 0"#,
        "quire_engine_turn_seconds ",
        "quire_requests_in_flight 0",
        "quire_model_load_seconds ",
        "# HELP http_requests_total ",
        "process_start_time_seconds ",
    ] {
        assert!(before.body.contains(series), "{series} in\n{}", before.body);
    }
    server.send(knock(&Method::from_bytes(b"BREW").unwrap(), "/secret-path", None)).await;
    server.post("/v1/completions", &json!({"prompt": "a"})).await;
    let after = server.get("/metrics").await.body;
    let other = r#"http_requests_total{handler="other",method="other",status="4xx"} 1"#;
    assert!(after.contains(other), "{after}");
    assert!(after.contains(
        r#"http_request_duration_seconds_bucket{handler="/v1/completions",method="POST",le="0.1"}"#
    ));
    assert!(
        after.contains(r#"vllm:request_params_n_bucket{model_name="tiny",engine="0",le="1"}"#),
        "{after}"
    );
    assert!(!after.contains("secret-path"));
}

#[tokio::test]
async fn answers_say_the_load_to_routers_that_ask() {
    let server = with_keys(true);
    for (format, value) in [
        ("TEXT", "TEXT named_metrics.kv_cache_usage_perc=0, named_metrics.num_requests_waiting=0"),
        ("json", r#"JSON {"named_metrics":{"kv_cache_usage_perc":0.0,"num_requests_waiting":0}}"#),
        ("BINARY", ""),
    ] {
        let request = |path: &str, key: &str| {
            json_request(Method::GET, path)
                .header("endpoint-load-metrics-format", format)
                .header("authorization", key)
                .body(Body::empty())
                .unwrap()
        };
        let reply = server.send(request("/v1/models", "Bearer first")).await;
        assert_eq!(reply.header("endpoint-load-metrics"), value, "{format}");
        for (path, key) in [("/readyz", "Bearer first"), ("/v1/models", "Bearer wrong")] {
            let reply = server.send(request(path, key)).await;
            assert_eq!(reply.header("endpoint-load-metrics"), "", "{path} {key}");
        }
    }
    assert_eq!(with_keys(true).get("/v1/models").await.header("endpoint-load-metrics"), "");
}

#[tokio::test]
async fn a_panic_is_a_500_for_its_request_alone() {
    let boom = axum::routing::get(async || -> &'static str { panic!("boom") });
    let router = axum::Router::new()
        .route("/version", boom)
        .layer(axum::middleware::from_fn(observe::observe));
    let server = TestServer { router, ..TestServer::loading(config()) };
    for _ in 0..2 {
        let reply = server.get("/version").await;
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(reply.json()["error"]["type"], "InternalServerError");
        assert!(!reply.body.contains("boom"));
    }
}
