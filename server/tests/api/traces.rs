//! Traces against a small collector: what arrives, whose it is, and that a dead one harms nobody.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, StatusCode};
use prost::Message;
use quire_engine::handle::SchedulerStats;
use quire_server::app::ServerConfig;
use quire_server::traces::Exporter;
use quire_server::traces::messages::{ExportRequest, KIND_INTERNAL, KIND_SERVER, Span, Value};
use serde_json::json;

use crate::support::{TestServer, answer, config, engine_info, json_request};

/// Takes spans as a collector does.
fn collector() -> (String, Receiver<(String, ExportRequest)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if line.trim().is_empty() {
                    break;
                }
                lines.push(line.trim().to_ascii_lowercase());
            }
            let length = lines.iter().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.unwrap().parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            stream.write_all(reply).unwrap();
            let spans = ExportRequest::decode(&body[..]).unwrap();
            if sender.send((lines[0].clone(), spans)).is_err() {
                return;
            }
        }
    });
    (url, received)
}

fn traced(url: &str) -> TestServer {
    let config = ServerConfig { traces: Some(Exporter::start(url).unwrap()), ..config() };
    let (server, queue) = TestServer::with_queue(config, engine_info());
    std::thread::spawn(move || {
        while let Ok(submission) = queue.recv() {
            queue.publish(SchedulerStats::default());
            for event in answer(&submission.request, "secret") {
                submission.events.send(event);
            }
        }
    });
    server
}

async fn ask(server: &TestServer, path: &str, traceparent: Option<&str>) {
    let mut request = json_request(Method::POST, path);
    if let Some(value) = traceparent {
        request = request.header("traceparent", value);
    }
    let body = json!({"prompt": "abc", "max_tokens": 9, "temperature": 0.5,
        "messages": [{"role": "user", "content": "hidden words"}]});
    let reply = server.send(request.body(Body::from(body.to_string())).unwrap()).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
}

fn spans_of(request: &ExportRequest) -> &[Span] {
    &request.resource_spans[0].scope_spans[0].spans
}

fn value<'a>(span: &'a Span, key: &str) -> Option<&'a Value> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

#[tokio::test]
async fn a_request_is_a_span_with_its_queue_prefill_and_decode() {
    let (url, received) = collector();
    let server = traced(&url);
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    ask(&server, "/v1/completions", Some(parent)).await;
    let (line, request) = received.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(line, "post /v1/traces http/1.1");
    let spans = spans_of(&request);
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    assert_eq!(names, ["text_completion tiny", "queue", "prefill", "decode"]);
    let root = &spans[0];
    assert_eq!((root.kind, root.parent_span_id[0], root.trace_id[0]), (KIND_SERVER, 0xb7, 0x0a));
    for part in &spans[1..] {
        assert_eq!(part.parent_span_id, root.span_id);
        assert_eq!((part.kind, &part.trace_id), (KIND_INTERNAL, &root.trace_id));
        assert!(part.start_time_unix_nano <= part.end_time_unix_nano);
    }
    assert_eq!(spans[1].end_time_unix_nano, spans[2].start_time_unix_nano);
    assert_eq!(spans[2].end_time_unix_nano, spans[3].start_time_unix_nano);
    assert_eq!(value(root, "gen_ai.request.max_tokens"), Some(&Value::Integer(9)));
    assert_eq!(value(root, "gen_ai.request.temperature"), Some(&Value::Number(0.5)));
    assert!(matches!(value(root, "gen_ai.usage.output_tokens"), Some(Value::Integer(6 | 7))));
    assert_eq!(value(root, "gen_ai.usage.cache_read.input_tokens"), Some(&Value::Integer(2)));
    let Some(Value::List(reasons)) = value(root, "gen_ai.response.finish_reasons") else {
        panic!("no reasons: {root:?}")
    };
    assert_eq!(reasons.values[0].value, Some(Value::Text("stop".into())));
    let told = format!("{request:?}");
    assert!(!told.contains("secret") && !told.contains("abc"), "words of the request: {told}");
}

#[tokio::test]
async fn who_does_not_record_is_not_recorded_and_who_says_nothing_begins_a_trace() {
    let (url, received) = collector();
    let server = traced(&url);
    let silent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    ask(&server, "/v1/completions", Some(silent)).await;
    ask(&server, "/v1/chat/completions", Some("nonsense")).await;
    let (_, request) = received.recv_timeout(Duration::from_secs(20)).unwrap();
    let spans = spans_of(&request);
    assert_eq!((spans.len(), &*spans[0].name), (4, "chat tiny"));
    assert!(spans[0].parent_span_id.is_empty() && spans[0].trace_id[0..2] != [0x0a, 0xf7]);
}

#[tokio::test]
async fn a_dead_collector_costs_requests_nothing() {
    // Nobody listens, and nobody answers.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    for url in [format!("http://{gone}"), format!("http://{}/own/path", mute.local_addr().unwrap())]
    {
        let server = traced(&url);
        let began = Instant::now();
        for _ in 0..20 {
            ask(&server, "/v1/completions", None).await;
        }
        assert!(began.elapsed() < Duration::from_secs(4), "requests wait for {url}");
    }
    for wrong in ["collector:4318", "ftp://collector", "http://"] {
        let error = Exporter::start(wrong).err().unwrap().to_string();
        assert!(error.contains("--otlp-traces-endpoint"), "{error}");
    }
}
