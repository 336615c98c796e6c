//! Frames of HTTP/2 made to wear a server out: streams that are begun and reset without end, heads and pings without end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quire_proto::v1::{self, inference_client::InferenceClient};
use quire_server::serve::{Listeners, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{TestServer, answer, text_of};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 4;

/// RFC 9113, section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A call of `method`, in HPACK: names of the static table, values as they are.
fn head(method: &str) -> Vec<u8> {
    let path = format!("/quire.v1.Inference/{method}");
    let kind = "application/grpc";
    // POST, http, :path, :authority, content-type.
    let mut head = vec![0x83, 0x86, 0x04, path.len() as u8];
    head.extend(path.bytes());
    head.extend(*b"\x01\x09localhost\x0f\x10");
    head.push(kind.len() as u8);
    head.extend(kind.bytes());
    head
}

/// What the server says to `frames`, until it closes or has nothing to say for a while.
async fn exchange(address: SocketAddr, frames: Vec<u8>) -> Vec<(u8, Vec<u8>)> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move {
        let _ = write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let _ = write.write_all(&frame(SETTINGS, 0, 0, &[])).await;
        // An error: it has closed.
        let _ = write.write_all(&frames).await;
        write
    });
    let mut bytes = Vec::new();
    while let Ok(Ok(1..)) =
        tokio::time::timeout(Duration::from_secs(2), read.read_buf(&mut bytes)).await
    {}
    sending.abort();
    let mut frames = Vec::new();
    let mut rest = &bytes[..];
    while let [a, b, c, kind, _, _, _, _, _, after @ ..] = rest {
        let length = (u32::from_be_bytes([0, *a, *b, *c]) as usize).min(after.len());
        frames.push((*kind, after[..length].to_vec()));
        rest = &after[length..];
    }
    frames
}

async fn assert_unharmed(address: SocketAddr) {
    let mut client = InferenceClient::connect(format!("http://{address}")).await.unwrap();
    let prompt = Some(v1::generate_request::Prompt::Text("canary".into()));
    let request = v1::GenerateRequest { prompt, ..v1::GenerateRequest::default() };
    let whole = client.generate(request).await.unwrap().into_inner();
    assert_eq!(whole.answers[0].text, "canary");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_end_their_own_connection() {
    let server = TestServer::scripted(|request| answer(request, &text_of(&request.prompt)));
    let bind = async || TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listeners = Listeners { http: bind().await, grpc: Some(bind().await), grpc_tls: None };
    let address = listeners.grpc.as_ref().unwrap().local_addr().unwrap();
    tokio::spawn(serve(listeners, Arc::clone(&server.state), std::future::pending()));

    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    let call = head("Generate");
    let resets = (0..20_000).flat_map(|i| {
        let stream = 2 * i + 1;
        let begin = frame(HEADERS, END_HEADERS, stream, &call);
        [begin, frame(RST_STREAM, 0, stream, &CANCEL)].concat()
    });
    let continued = [frame(HEADERS, 0, 1, &call)]
        .into_iter()
        .chain((0..20_000).map(|_| frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b")))
        .flatten();
    // Of a stream that was never begun.
    let stray = frame(DATA, 0, 77, b"x").into_iter();
    let cases: [(&str, Vec<u8>); 3] = [
        ("resets", resets.collect()),
        ("a head without end", continued.collect()),
        ("data of no stream", stray.collect()),
    ];
    for (name, frames) in cases {
        let said = exchange(address, frames).await;
        let goaway = said.iter().any(|(kind, _)| *kind == GOAWAY);
        assert!(goaway, "{name}: {:?}", said.iter().map(|(kind, _)| kind).collect::<Vec<_>>());
        assert_unharmed(address).await;
    }
    // Pings are answered, one after the other.
    let pings = (0..20_000).flat_map(|_| frame(PING, 0, 0, b"pingping")).collect();
    exchange(address, pings).await;
    assert_unharmed(address).await;
}
