//! A server without a model, at a set pace, that can misbehave: what the harness is tested and timed against.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

/// Largest request.
const MAX_BODY_BYTES: usize = 16 << 20;

const GARBAGE: &str = "\u{1b}[2J<script>alert(1)</script>{{{\n\n";
const ERROR: &str = "data: {\"error\":{\"message\":\"<b>out of memory</b>\"}}\n\n";

/// How a request goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// Status 429
    TooManyRequests,
    /// Status 503
    Unavailable,
    /// A line that is no event, in the middle
    Garbage,
    /// Bytes that are no HTTP
    NotHttp,
    /// Chunks without end
    Endless,
    /// Usage of more tokens than were asked for
    WrongUsage,
    /// No usage
    NoUsage,
    /// The connection ends in the middle
    Cut,
    /// Nothing more comes
    Silent,
    /// No content
    Empty,
    /// A chunk of 1 MB, with markup and control characters
    HugeLine,
    /// An error within the stream
    Error,
}

#[derive(Clone, Debug)]
pub struct MockOptions {
    /// From the request to its first chunk.
    pub first: Duration,
    /// Between chunks.
    pub gap: Duration,
    /// Requests answered at once; others wait.
    pub slots: usize,
    /// So long, once in so long, nothing is done for anybody.
    pub pause: Option<(Duration, Duration)>,
    /// What every so manieth request gets.
    pub fault: Option<(Fault, u64)>,
    /// After so many requests every connection ends, and nobody is let in again.
    pub dies_after: Option<u64>,
    /// What each chunk says.
    pub text: String,
}

impl Default for MockOptions {
    fn default() -> Self {
        let (first, gap) = (Duration::from_millis(5), Duration::from_millis(2));
        let slots = Semaphore::MAX_PERMITS;
        Self {
            first,
            gap,
            slots,
            pause: None,
            fault: None,
            dies_after: None,
            text: " word".to_owned(),
        }
    }
}

struct Mock {
    options: MockOptions,
    start: Instant,
    requests: AtomicU64,
    slots: Semaphore,
    dies: watch::Sender<bool>,
}

/// Serves until the future is dropped, or until it dies as told.
pub async fn serve(listener: TcpListener, options: MockOptions) {
    let (dies, mut is_dead) = watch::channel(false);
    let slots = Semaphore::new(options.slots);
    let mock =
        Arc::new(Mock { slots, options, start: Instant::now(), requests: AtomicU64::new(0), dies });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = is_dead.changed() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (mock, mut is_dead) = (mock.clone(), is_dead.clone());
        tokio::spawn(async move {
            tokio::select! {
                // A connection that fails is the client's affair.
                _ = connection(stream, &mock) => {}
                _ = is_dead.changed() => {}
            }
        });
    }
}

/// Serves on a free port of this machine, in the background of this runtime.
pub async fn spawn(options: MockOptions) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(serve(listener, options));
    address
}

async fn connection(stream: TcpStream, mock: &Mock) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some((path, body)) = request(&mut stream).await? {
        if !path.starts_with("POST ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
            continue;
        }
        let number = mock.requests.fetch_add(1, Relaxed) + 1;
        if mock.options.dies_after.is_some_and(|last| number > last) {
            mock.dies.send_replace(true);
            return Ok(());
        }
        let fault = mock
            .options
            .fault
            .filter(|&(_, every)| number.is_multiple_of(every))
            .map(|(fault, _)| fault);
        if !answer(stream.get_mut(), mock, path.contains("/api/chat"), &body, fault).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// The first line and the body; `None` when the client has gone.
async fn request(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let (mut path, mut length) = (String::new(), 0);
    if stream.read_line(&mut path).await? == 0 {
        return Ok(None);
    }
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? <= 2 {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0).min(MAX_BODY_BYTES);
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some((path, body)))
}

/// Whether the connection goes on.
async fn answer(
    stream: &mut TcpStream,
    mock: &Mock,
    is_ollama: bool,
    body: &[u8],
    fault: Option<Fault>,
) -> std::io::Result<bool> {
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let tokens = asked["max_tokens"]
        .as_u64()
        .or(asked["max_completion_tokens"].as_u64())
        .or(asked["options"]["num_predict"].as_u64())
        .unwrap_or(16);
    if let Some(status) = match fault {
        Some(Fault::TooManyRequests) => Some("429 Too Many Requests"),
        Some(Fault::Unavailable) => Some("503 Service Unavailable"),
        _ => None,
    } {
        let head = format!("HTTP/1.1 {status}\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nbusy");
        stream.write_all(head.as_bytes()).await?;
        return Ok(true);
    }
    if fault == Some(Fault::NotHttp) {
        stream.write_all(b"\x1b[31mSSH-2.0-nothing\r\n\r\n").await?;
        return Ok(false);
    }
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let slot = mock.slots.acquire().await;
    let Some(number) = words(stream, mock, is_ollama, tokens, fault).await? else {
        return Ok(false);
    };
    drop(slot);
    let counted = if fault == Some(Fault::WrongUsage) { 3 * tokens } else { number };
    let counted = (fault != Some(Fault::NoUsage)).then_some(counted);
    write_chunk(stream, &last(is_ollama, counted)).await?;
    stream.write_all(b"0\r\n\r\n").await?;
    Ok(true)
}

/// Writes the chunks with content; how many, or `None` where the connection ends.
async fn words(
    stream: &mut TcpStream,
    mock: &Mock,
    is_ollama: bool,
    tokens: u64,
    fault: Option<Fault>,
) -> std::io::Result<Option<u64>> {
    let start = Instant::now();
    let text = match fault {
        Some(Fault::HugeLine) => {
            &format!("<script>alert(1)</script>\u{1b}[31m{}", "x".repeat(1 << 20))
        }
        _ => &mock.options.text,
    };
    let event = chunk(is_ollama, text);
    let end = match fault {
        Some(Fault::Empty) => 0,
        Some(Fault::Endless) => u64::MAX,
        _ => tokens,
    };
    for number in 0..end {
        let due = start + mock.options.first + mock.options.gap * number as u32;
        tokio::time::sleep_until(due.into()).await;
        mock.wait_for_pause().await;
        if number == tokens / 2 {
            match fault {
                Some(Fault::Cut) => return Ok(None),
                Some(Fault::Silent) => std::future::pending().await,
                Some(Fault::Garbage) => write_chunk(stream, GARBAGE).await?,
                Some(Fault::Error) => write_chunk(stream, ERROR).await?,
                _ => {}
            }
        }
        write_chunk(stream, &event).await?;
    }
    Ok(Some(end))
}

fn chunk(is_ollama: bool, text: &str) -> String {
    if is_ollama {
        return format!(
            "{}\n",
            json!({"message": {"role": "assistant", "content": text}, "done": false})
        );
    }
    // Both forms at once serve completions as well as chats.
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": text}}]}))
}

fn last(is_ollama: bool, tokens: Option<u64>) -> String {
    if is_ollama {
        return format!(
            "{}\n",
            json!({"done": true, "prompt_eval_count": 10, "eval_count": tokens})
        );
    }
    let usage = tokens.map(|tokens| json!({"prompt_tokens": 10, "completion_tokens": tokens}));
    format!("data: {}\n\ndata: [DONE]\n\n", json!({"choices": [], "usage": usage}))
}

async fn write_chunk(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await
}

impl Mock {
    /// Sleeps as long as everything is paused: at the end of each period.
    async fn wait_for_pause(&self) {
        let Some((length, period)) = self.options.pause else { return };
        let phase = self.start.elapsed().as_secs_f64() % period.as_secs_f64();
        let work = period.saturating_sub(length).as_secs_f64();
        if phase >= work {
            tokio::time::sleep(Duration::from_secs_f64(period.as_secs_f64() - phase)).await;
        }
    }
}
