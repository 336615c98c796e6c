//! The memory of gRPC requests: counted as they come, waited for before they are decoded, free again when they are converted.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use futures_util::{StreamExt, future, stream};
use prost::Message;
use quire_proto::v1;
use quire_proto::v1::generate_request::Prompt;
use quire_proto::v1::inference_client::InferenceClient;
use quire_server::grpc;
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use tower::ServiceExt;

use crate::support::{TestServer, answer, config, engine_info};

const LARGE: usize = 200 << 10;

fn server(bodies_memory: usize, body_read_timeout: Duration) -> TestServer {
    let mut config = config();
    (config.limits.max_body_bytes, config.limits.bodies_memory) = (256 << 10, bodies_memory);
    config.limits.body_read_timeout = body_read_timeout;
    let (server, queue) = TestServer::with_queue(config, engine_info());
    std::thread::spawn(move || {
        while let Ok(submission) = queue.recv() {
            for event in answer(&submission.request, "Hi") {
                submission.events.send(event);
            }
        }
    });
    server
}

fn asking(prompt: Prompt) -> v1::GenerateRequest {
    v1::GenerateRequest { prompt: Some(prompt), ..v1::GenerateRequest::default() }
}

/// A prompt that is much too long, and fits into a request.
fn long() -> v1::GenerateRequest {
    asking(Prompt::Text("x".repeat(LARGE)))
}

async fn generate(server: &TestServer, request: v1::GenerateRequest) -> Result<(), Status> {
    let mut client = InferenceClient::new(grpc::router(Arc::clone(&server.state)));
    client.generate(request).await.map(drop)
}

fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    [&[0], &(message.len() as u32).to_be_bytes()[..], &message].concat()
}

/// A call whose body is `pieces` and never ends.
fn begin(server: &TestServer, pieces: Vec<Vec<u8>>) -> JoinHandle<Option<Status>> {
    let router = grpc::router(Arc::clone(&server.state));
    let pieces = stream::iter(pieces.into_iter().map(|piece| Ok::<_, Status>(Bytes::from(piece))));
    let request = Request::post("/quire.v1.Inference/Generate")
        .header("content-type", "application/grpc")
        .body(Body::from_stream(pieces.chain(stream::pending())))
        .unwrap();
    tokio::spawn(async move {
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        Status::from_header_map(response.headers())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_share_the_memory_of_bodies() {
    let server = server(300 << 10, Duration::from_secs(60));
    let half = framed(&long())[..LARGE - 1].to_vec();
    let mut slow = begin(&server, vec![half.clone()]);
    let refused = async {
        loop {
            let status = generate(&server, long()).await.unwrap_err();
            if status.code() == Code::Unavailable {
                return status;
            }
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            // The other one may have been the later one.
            if slow.is_finished() {
                slow = begin(&server, vec![half.clone()]);
            }
            tokio::task::yield_now().await;
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(20), refused).await;
    let refused = refused.expect("there is room for both");
    assert!(refused.message().contains("--bodies-memory"), "{refused}");
    let wait = refused.get_details_retry_info().and_then(|info| info.retry_delay);
    assert_eq!(wait, Some(Duration::from_secs(1)));
    // What is small is not counted; over HTTP the memory is the same.
    generate(&server, asking(Prompt::Text("a".into()))).await.unwrap();
    let body = serde_json::json!({"prompt": "x".repeat(LARGE)});
    assert_eq!(server.post("/v1/completions", &body).await.status, StatusCode::SERVICE_UNAVAILABLE);
    slow.abort();
    assert!(slow.await.is_err_and(|error| error.is_cancelled()));
    for _ in 0..20 {
        let status = generate(&server, long()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "its memory is not free: {status}");
    }
}

/// Each of them may take all the memory when it is decoded: they wait for each other, and none is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decoded_messages_wait_for_memory() {
    let server = server(2 << 20, Duration::from_secs(60));
    let messages = vec![v1::Message::default(); 50 << 10];
    let chat = asking(Prompt::Chat(v1::Chat { messages }));
    let calls = (0..16).map(|_| generate(&server, chat.clone()));
    let ends = tokio::time::timeout(Duration::from_secs(30), future::join_all(calls)).await;
    for end in ends.expect("they wait for each other forever") {
        let status = end.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("--max-messages"), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_comes_in_time_and_alone() {
    let server = server(1 << 20, Duration::from_millis(100));
    let whole = framed(&asking(Prompt::Text("a".into())));
    for (pieces, code, says) in [
        (vec![whole[..3].to_vec()], Code::DeadlineExceeded, "--body-read-timeout"),
        (vec![whole[..6].to_vec()], Code::DeadlineExceeded, "--body-read-timeout"),
        (vec![whole.clone()], Code::DeadlineExceeded, "--body-read-timeout"),
        (vec![whole[..2].to_vec(), whole[2..].to_vec(), whole.clone()], Code::Unimplemented, "one"),
    ] {
        let ended = tokio::time::timeout(Duration::from_secs(20), begin(&server, pieces)).await;
        let status = ended.expect("it waits forever").unwrap().expect("it failed");
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(says), "{status}");
    }
}
