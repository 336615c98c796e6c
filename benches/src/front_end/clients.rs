//! Clients of the mock: streams over both doors, and streams that wait.

use std::io::Read as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use quire_proto::v1;
use quire_proto::v1::inference_client::InferenceClient;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::mock::{IDLE, Mock};

/// Where streams come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Door {
    /// `POST /v1/completions`.
    Sse,
    /// `quire.v1.Inference/GenerateStream`.
    Grpc,
}

/// What a door did.
#[derive(Debug, Serialize)]
pub struct Load {
    pub door: Door,
    pub tokens_per_second: f64,
    /// That were busy in the server, the engine's thread off.
    pub processors: f64,
}

/// Streams of one connection of gRPC.
const STREAMS_PER_CHANNEL: usize = 32;

/// Reads `num_streams` streams of `num_tokens` each.
pub fn measure_streams(
    mock: &Mock,
    door: Door,
    num_streams: usize,
    num_tokens: usize,
) -> anyhow::Result<Load> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        read(mock, door, num_streams, 20).await.context("warming up")?;
        let (began, busy) = (Instant::now(), mock.processor_seconds()?);
        read(mock, door, num_streams, num_tokens).await?;
        let seconds = began.elapsed().as_secs_f64();
        Ok(Load {
            door,
            tokens_per_second: (num_streams * num_tokens) as f64 / seconds,
            processors: (mock.processor_seconds()? - busy) / seconds,
        })
    })
}

async fn read(
    mock: &Mock,
    door: Door,
    num_streams: usize,
    num_tokens: usize,
) -> anyhow::Result<()> {
    match door {
        Door::Sse => {
            let address: SocketAddr = mock.http.parse()?;
            try_join_all((0..num_streams).map(|_| read_sse(address, num_tokens))).await?;
        }
        Door::Grpc => {
            let mut streams = Vec::new();
            for first in (0..num_streams).step_by(STREAMS_PER_CHANNEL) {
                let client = InferenceClient::connect(format!("http://{}", mock.grpc)).await?;
                let count = STREAMS_PER_CHANNEL.min(num_streams - first);
                streams.extend((0..count).map(|_| read_grpc(client.clone(), num_tokens)));
            }
            try_join_all(streams).await?;
        }
    }
    Ok(())
}

fn request(num_tokens: usize) -> String {
    let body = format!(r#"{{"prompt": [1, 2, 3], "stream": true, "max_tokens": {num_tokens}}}"#);
    format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Counts the events by their first letters, which may be cut between two reads.
async fn read_sse(address: SocketAddr, num_tokens: usize) -> anyhow::Result<()> {
    const EVENT: &[u8] = b"\ndata: {";
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request(num_tokens).as_bytes()).await?;
    let (mut bytes, mut seen, mut num_events) = (vec![0; 16 << 10], Vec::new(), 0);
    loop {
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            break;
        }
        seen.extend_from_slice(&bytes[..count]);
        num_events += seen.windows(EVENT.len()).filter(|window| *window == EVENT).count();
        let kept = seen.len().saturating_sub(EVENT.len() - 1);
        seen.drain(..kept);
    }
    // A token without text of its own is no event.
    ensure!(num_events * 10 > num_tokens * 9, "{num_events} events of {num_tokens} tokens");
    Ok(())
}

async fn read_grpc(
    mut client: InferenceClient<tonic::transport::Channel>,
    num_tokens: usize,
) -> anyhow::Result<()> {
    use v1::generate_event::Event;
    let request = v1::GenerateRequest {
        prompt: Some(v1::generate_request::Prompt::TokenIds(v1::TokenIds { ids: vec![1, 2, 3] })),
        sampling_params: Some(v1::SamplingParams {
            max_tokens: Some(num_tokens as u32),
            ..v1::SamplingParams::default()
        }),
        ..v1::GenerateRequest::default()
    };
    let mut stream = client.generate_stream(request).await?.into_inner();
    let mut count = 0;
    while let Some(message) = stream.message().await? {
        if let Some(Event::Delta(delta)) = message.event {
            count += delta.token_ids.len();
        }
    }
    ensure!(count == num_tokens, "{count} of {num_tokens} tokens");
    Ok(())
}

/// KiB of the server for each of so many streams that wait for their next token.
pub fn measure_idle(mock: &Mock, num_streams: usize) -> anyhow::Result<f64> {
    // What the first of them need once is not theirs.
    const FIRST: usize = 100;
    let mut streams = Vec::new();
    let mut before = 0.0;
    while streams.len() < num_streams {
        if streams.len() == FIRST {
            before = mock.resident_kib()?;
        }
        streams.push(wait_for_first(mock)?);
    }
    std::thread::sleep(Duration::from_secs(1));
    Ok((mock.resident_kib()? - before) / (num_streams - FIRST) as f64)
}

/// A stream whose first token is there.
fn wait_for_first(mock: &Mock) -> anyhow::Result<std::net::TcpStream> {
    use std::io::Write as _;
    let mut stream = std::net::TcpStream::connect(&mock.http)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request(IDLE as usize).as_bytes())?;
    let mut text = Vec::new();
    let mut bytes = [0; 2048];
    while !text.windows(6).any(|window| window == b"data: ") {
        let count = stream.read(&mut bytes)?;
        ensure!(count > 0, "closed: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&bytes[..count]);
    }
    Ok(stream)
}
