//! How servers like this one were broken: compressed bombs, streams left unread, equal ids, ids beyond the logits.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use quire_proto::v1::inference_client::InferenceClient;
use quire_proto::v1::{self, generate_request::Prompt};
use quire_server::grpc;
use quire_server::serve::{Listeners, serve};
use serde_json::json;
use tokio::net::TcpListener;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::ServiceExt;
use vllm_proto::inference_client::InferenceClient as VllmClient;

use crate::support::{
    TestServer, answer, config, engine_info, json_request, started, text_of, token,
};

fn parrot() -> TestServer {
    TestServer::scripted(|request| answer(request, &text_of(&request.prompt)))
}

fn prompt(text: &str) -> v1::GenerateRequest {
    v1::GenerateRequest {
        prompt: Some(Prompt::Text(text.into())),
        ..v1::GenerateRequest::default()
    }
}

/// The server takes requests and answers as ever.
async fn assert_unharmed(server: &TestServer) {
    assert_eq!(server.get("/readyz").await.status, 200);
    let reply = server.post("/v1/completions", &json!({"prompt": "canary"})).await;
    assert_eq!(reply.json()["choices"][0]["text"], "canary", "{}", reply.body);
    let mut client = InferenceClient::new(grpc::router(Arc::clone(&server.state)));
    let whole = client.generate(prompt("canary")).await.unwrap().into_inner();
    assert_eq!(whole.answers[0].text, "canary");
}

#[tokio::test]
async fn addresses_of_pictures_are_never_asked() {
    let server = parrot();
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/secret.png", inside.local_addr().unwrap());
    let user = |part| json!([{"role": "user", "content": [part]}]);
    let of_chat = json!({"type": "image_url", "image_url": {"url": url}});
    let of_response = json!({"type": "input_image", "image_url": url});
    let of_message = json!({"type": "image", "source": {"type": "url", "url": url}});
    for (path, body) in [
        ("/v1/chat/completions", json!({"messages": user(of_chat)})),
        ("/v1/responses", json!({"model": "tiny", "input": user(of_response)})),
        ("/v1/messages", json!({"model": "tiny", "max_tokens": 9, "messages": user(of_message)})),
        (
            "/api/chat",
            json!({"model": "tiny", "messages": [{"role": "user", "content": "", "images": [url]}]}),
        ),
        ("/api/generate", json!({"model": "tiny", "prompt": "a", "images": [url]})),
    ] {
        let reply = server.post(path, &body).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.body);
    }
    let came = tokio::time::timeout(Duration::from_millis(200), inside.accept()).await;
    assert!(came.is_err(), "somebody asked");
}

#[tokio::test]
async fn compressed_bodies_are_not_taken() {
    let server = parrot();
    for (encoding, status) in
        [("gzip", 415), ("br", 415), ("deflate, gzip", 415), ("zstd", 415), ("identity", 200)]
    {
        let request = json_request(Method::POST, "/v1/completions")
            .header("content-encoding", encoding)
            .body(Body::from(r#"{"prompt": "a"}"#));
        let reply = server.send(request.unwrap()).await;
        assert_eq!(reply.status, status, "{encoding}: {}", reply.body);
    }
    let request = Request::post("/quire.v1.Inference/Generate")
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "gzip")
        // The first byte says that the message is compressed.
        .body(Body::from(vec![1, 0, 0, 0, 1, 0]));
    let router = grpc::router(Arc::clone(&server.state));
    let response = router.oneshot(request.unwrap()).await.unwrap();
    let status = Status::from_header_map(response.headers()).expect("refused");
    assert_eq!(status.code(), Code::Unimplemented);
    assert_unharmed(&server).await;
}

#[tokio::test]
async fn large_messages_are_refused() {
    let server = parrot();
    let mut client = InferenceClient::new(grpc::router(Arc::clone(&server.state)));
    let status = client.generate(prompt(&"x".repeat(65 << 10))).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
    assert_unharmed(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_unread_stream_of_a_live_connection_is_cut_off() {
    let mut config = config();
    config.limits.write_timeout = Duration::from_millis(200);
    let mut info = engine_info();
    info.limits.max_model_len = u32::MAX;
    let (server, queue) = TestServer::with_queue(config, info);
    let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listeners = Listeners { http: bind().await, grpc: Some(bind().await), grpc_tls: None };
    let address = listeners.grpc.as_ref().unwrap().local_addr().unwrap();
    tokio::spawn(serve(listeners, Arc::clone(&server.state), std::future::pending()));
    // The connection has room for other streams when one is full.
    let endpoint = Endpoint::new(format!("http://{address}")).unwrap();
    let endpoint =
        endpoint.initial_stream_window_size(1024).initial_connection_window_size(1 << 20);
    let mut client = InferenceClient::new(endpoint.connect().await.unwrap());
    let request = v1::GenerateRequest { request_id: "unread".into(), ..prompt("a") };
    let unread = client.generate_stream(request).await.unwrap().into_inner();
    let submission = queue.recv().unwrap();
    assert!(submission.events.send(started()));
    let cut_off = async {
        while submission.events.send(token(65)) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), cut_off).await.expect("never cut off");
    let models = client.models(v1::ModelsRequest {}).await.unwrap().into_inner().models;
    assert_eq!(models.len(), 2, "the connection lives");
    let mut unread = unread;
    let end = async { while let Ok(Some(_)) = unread.message().await {} };
    tokio::time::timeout(Duration::from_secs(10), end).await.expect("the stream ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_waits_for_tokens_is_not_cut_off() {
    let mut config = config();
    config.limits.write_timeout = Duration::from_millis(50);
    let (server, queue) = TestServer::with_queue(config, engine_info());
    let mut client = InferenceClient::new(grpc::router(Arc::clone(&server.state)));
    let mut stream = client.generate_stream(prompt("a")).await.unwrap().into_inner();
    let submission = queue.recv().unwrap();
    assert!(submission.events.send(started()));
    assert!(stream.message().await.unwrap().is_some());
    let next = tokio::spawn(async move { stream.message().await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(submission.events.send(token(65)), "it waits for the engine, not the client");
    assert!(next.await.unwrap().unwrap().is_some());
}

#[tokio::test]
async fn equal_ids_do_not_mix_answers_up() {
    let server = parrot();
    let ask = async |text: &str| {
        let request = json_request(Method::POST, "/v1/completions")
            .header("x-request-id", "same")
            .body(Body::from(json!({"prompt": text, "request_id": "same"}).to_string()));
        let reply = server.send(request.unwrap()).await.json();
        assert_eq!(reply["id"], "cmpl-same");
        reply["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let (first, second) = tokio::join!(ask("first"), ask("second"));
    assert_eq!((first.as_str(), second.as_str()), ("first", "second"));
    assert_unharmed(&server).await;
}

fn blamed(status: &Status) -> String {
    let details = status.get_details_bad_request();
    details.map_or(String::new(), |details| details.field_violations[0].field.clone())
}

#[tokio::test]
async fn ids_beyond_the_logits_come_through_no_door() {
    const BEYOND: u32 = 300;
    let server = parrot();
    let mut client = InferenceClient::new(grpc::router(Arc::clone(&server.state)));
    let ids = || v1::TokenIds { ids: vec![BEYOND] };
    let with = |params: v1::SamplingParams| v1::GenerateRequest {
        sampling_params: Some(params),
        ..prompt("a")
    };
    let none = v1::SamplingParams::default;
    let cases = [
        (v1::GenerateRequest { prompt: Some(Prompt::TokenIds(ids())), ..prompt("") }, "prompt"),
        (with(v1::SamplingParams { stop_token_ids: vec![BEYOND], ..none() }), "stop_token_ids"),
        (
            with(v1::SamplingParams { allowed_token_ids: Some(ids()), ..none() }),
            "allowed_token_ids",
        ),
        (with(v1::SamplingParams { logit_bias: [(BEYOND, 1.0)].into(), ..none() }), "logit_bias"),
    ];
    for (request, field) in cases {
        let status = client.generate(request).await.unwrap_err();
        assert_eq!((status.code(), blamed(&status).as_str()), (Code::InvalidArgument, field));
    }
    assert_unharmed(&server).await;
}

#[tokio::test]
async fn vllms_contract_has_the_same_limits() {
    use vllm_proto::candidate_tokens::Select;
    use vllm_proto::generate_request::Prompt as VllmPrompt;
    const BEYOND: u32 = 300;
    let server = parrot();
    let mut client = VllmClient::new(grpc::router(Arc::clone(&server.state)));
    let base = || vllm_proto::GenerateRequest {
        prompt: Some(VllmPrompt::Text("a".into())),
        ..vllm_proto::GenerateRequest::default()
    };
    let ids = || vllm_proto::TokenIds { ids: vec![BEYOND] };
    let decoding = |decoding| vllm_proto::GenerateRequest { decoding: Some(decoding), ..base() };
    let none = vllm_proto::DecodingParameters::default;
    let many = vllm_proto::CandidateTokens { select: Some(Select::TopN(1 << 20)) };
    let cases = [
        vllm_proto::GenerateRequest { prompt: Some(VllmPrompt::TokenIds(ids())), ..base() },
        decoding(vllm_proto::DecodingParameters { bad_words_token_ids: vec![ids()], ..none() }),
        decoding(vllm_proto::DecodingParameters { allowed_token_ids: vec![BEYOND], ..none() }),
        decoding(vllm_proto::DecodingParameters { logit_bias: [(BEYOND, 1.0)].into(), ..none() }),
        vllm_proto::GenerateRequest {
            stopping: Some(vllm_proto::StoppingCriteria {
                stop_token_ids: vec![BEYOND],
                ..vllm_proto::StoppingCriteria::default()
            }),
            ..base()
        },
        vllm_proto::GenerateRequest {
            stopping: Some(vllm_proto::StoppingCriteria {
                max_new_tokens: u32::MAX,
                ..vllm_proto::StoppingCriteria::default()
            }),
            ..base()
        },
        vllm_proto::GenerateRequest {
            response: Some(vllm_proto::ResponseOptions {
                output_candidates: Some(many),
                ..vllm_proto::ResponseOptions::default()
            }),
            ..base()
        },
    ];
    for (index, request) in cases.into_iter().enumerate() {
        let status = client.generate(request).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "case {index}: {status}");
        assert!(!blamed(&status).is_empty(), "case {index}");
    }
    assert_unharmed(&server).await;
}

#[tokio::test]
async fn what_is_nested_deeply_is_refused() {
    let server = parrot();
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let objects = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    let user = r#"{"role": "user", "content": "x"}"#;
    let bodies = [
        format!(r#"{{"messages": [{user}], "chat_template_kwargs": {}}}"#, objects(5000)),
        format!(r#"{{"messages": [{user}], "chat_template_kwargs": {{"a": {}}}}}"#, deep(20000)),
        format!(r#"{{"messages": [{{"role": "user", "content": {}}}]}}"#, deep(20000)),
        format!(r#"{{"messages": [{user}], "documents": {}}}"#, deep(20000)),
        format!(r#"{{"messages": [{user}], "logit_bias": {}}}"#, objects(5000)),
    ];
    for body in bodies {
        let reply = server.post_text("/v1/chat/completions", body).await;
        assert_eq!(reply.status, 400, "{}", reply.body);
    }
    assert_unharmed(&server).await;
}

#[tokio::test]
async fn paths_of_grpc_make_no_labels() {
    let server = parrot();
    let call = async |path: &str| {
        let request = Request::post(path).header("content-type", "application/grpc");
        let router = grpc::router(Arc::clone(&server.state));
        router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    };
    for path in ["/secret.Service/Name", "/quire.v1.Inference/SecretName", "/secret-path"] {
        call(path).await;
    }
    let metrics = server.get("/metrics").await.body;
    assert!(metrics.contains(r#"grpc_service="other",grpc_method="other""#), "{metrics}");
    assert!(!metrics.to_lowercase().contains("secret"));
}

/// What a model's chat template may be: a loop without end, a text without end, a call of itself.
#[tokio::test]
async fn a_template_that_is_a_bomb_fails_its_requests_alone() {
    let bombs = [
        (
            "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
            "max_fuel",
        ),
        ("{% for a in range(90000) %}{{ 'x' * 90000 }}{% endfor %}", "max_output_bytes"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "recursion"),
        ("{{ 'x' * 900000000000 }}", "too large"),
        ("{{ messages[0].content.nothing.more }}", "undefined"),
        ("{{ raise_exception('not today') }}", "not today"),
    ];
    let messages = json!([{"role": "user", "content": "Hi"}]);
    for (bomb, why) in bombs {
        let server = TestServer::scripted_with(bomb, &[], answer_of_prompt);
        for path in ["/v1/chat/completions", "/tokenize", "/api/chat", "/v1/messages"] {
            let body = json!({"model": "tiny", "messages": messages, "max_tokens": 5});
            let reply = server.post(path, &body).await;
            assert_eq!(reply.status, 400, "{path} {bomb}: {}", reply.body);
            assert!(reply.body.contains(why), "{path} {bomb}: {}", reply.body);
        }
        assert_unharmed(&server).await;
    }
}

fn answer_of_prompt(request: &quire_engine::Request) -> Vec<quire_engine::request::StreamEvent> {
    answer(request, &text_of(&request.prompt))
}
