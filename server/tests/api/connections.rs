//! Real sockets: slow and silent clients, too many of them, and probes on their own thread.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quire_server::app::ServerConfig;
use quire_server::serve::{ProbeServer, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{TestServer, config, engine_info, http_only, started, token};

/// Posts `body` to `/v1/completions` and gives the whole response.
pub(crate) async fn post(address: SocketAddr, body: &str) -> String {
    exchange(address, &post_text(body, body.len())).await
}

fn post_text(body: &str, declared_len: usize) -> String {
    format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {declared_len}\r\n\r\n{body}"
    )
}

/// Sends `text` and reads until the server closes.
async fn exchange(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // A reset after the answer is as good as an end.
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

/// Serves until the test's runtime ends.
async fn start(config: ServerConfig) -> (SocketAddr, quire_engine::handle::EngineQueue) {
    let (server, queue) = TestServer::with_queue(config, engine_info());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(http_only(listener), Arc::clone(&server.state), std::future::pending()));
    (address, queue)
}

/// As `start`: how long a head may take, and how long a connection may be idle.
async fn start_waiting(
    (head, idle): (Duration, Duration),
) -> (SocketAddr, quire_engine::handle::EngineQueue) {
    let mut config = config();
    config.limits.header_read_timeout = head;
    config.limits.idle_timeout = idle;
    start(config).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_heads_and_bodies_are_cut_off() {
    let mut config = config();
    config.limits.header_read_timeout = Duration::from_millis(50);
    config.limits.body_read_timeout = Duration::from_millis(50);
    let (address, _queue) = start(config).await;
    let unfinished = exchange(address, "GET /version HTTP/1.1\r\nhost: localhost\r\n").await;
    assert!(!unfinished.contains("200 OK"), "{unfinished}");
    let half = exchange(address, &post_text(r#"{"prompt""#, 100)).await;
    assert!(half.starts_with("HTTP/1.1 408") && half.contains("--body-read-timeout"), "{half}");
}

/// Asks for the version over a kept connection, and reads the whole answer.
async fn ask_version(stream: &mut TcpStream) {
    stream.write_all(b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "closed");
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

/// How long the server takes to close.
async fn time_to_the_end(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_may_be_idle_longer_than_a_head_may_take() {
    let times = (Duration::from_millis(100), Duration::from_secs(30));
    let (address, _queue) = start_waiting(times).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        ask_version(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // Once it has begun, a head has as little time as the first one.
    stream.write_all(b"GET /version HTTP/1.1\r\n").await.unwrap();
    assert!(time_to_the_end(&mut stream).await < Duration::from_secs(15));
    // A connection that never asks anything is not idle but slow.
    let mut silent = TcpStream::connect(address).await.unwrap();
    assert!(time_to_the_end(&mut silent).await < Duration::from_secs(15));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drops_of_a_head_do_not_prolong_it() {
    let times = (Duration::from_millis(200), Duration::from_secs(30));
    let (address, _queue) = start_waiting(times).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask_version(&mut stream).await;
    let mut num_drops = 0;
    while stream.write_all(b"a").await.is_ok() && num_drops < 400 {
        num_drops += 1;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(num_drops < 400, "it was never closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_in_the_end() {
    let times = (Duration::from_secs(30), Duration::from_millis(50));
    let (address, _queue) = start_waiting(times).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    ask_version(&mut stream).await;
    assert!(time_to_the_end(&mut stream).await < Duration::from_secs(15));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_heads_and_foreign_hosts_are_refused() {
    let mut config = config();
    config.limits.max_header_bytes = 8 << 10;
    config.limits.max_headers = 20;
    let (address, _queue) = start(config).await;
    let get = |headers: &str| {
        format!("GET /version HTTP/1.1\r\nconnection: close\r\nhost: localhost\r\n{headers}\r\n")
    };
    let cases = [
        (get(""), "HTTP/1.1 200"),
        (get(&"a: b\r\n".repeat(30)), "HTTP/1.1 431"),
        (get(&format!("a: {}\r\n", "b".repeat(9 << 10))), "HTTP/1.1 431"),
        (get("").replace("localhost", "evil.example"), "HTTP/1.1 403"),
        ("nonsense\r\n\r\n".into(), "HTTP/1.1 400"),
    ];
    for (request, status) in cases {
        let answer = exchange(address, &request).await;
        assert!(answer.starts_with(status), "{request:.80} {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_over_the_limit_are_told_so() {
    let mut config = config();
    config.limits.max_connections = 1;
    let (address, queue) = start(config).await;
    // At work: it waits for its answer.
    let mut first = TcpStream::connect(address).await.unwrap();
    let body = r#"{"prompt": "a"}"#;
    first.write_all(post_text(body, body.len()).as_bytes()).await.unwrap();
    let _submission = queue.recv().unwrap();
    let refused = exchange(address, "").await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}", body.len())));
    let error: serde_json::Value = serde_json::from_str(body).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("--max-connections"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_idle_longest_gives_way_to_who_comes() {
    let mut config = config();
    config.limits.max_connections = 2;
    let (address, _queue) = start(config).await;
    let mut kept = Vec::new();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        ask_version(&mut stream).await;
        kept.push(stream);
        // The server begins to wait after it has answered.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for mut oldest in kept.drain(..3) {
        assert!(time_to_the_end(&mut oldest).await < Duration::from_secs(15));
    }
    for youngest in &mut kept {
        ask_version(youngest).await;
    }
}

/// Whatever two servers could understand in two ways ends the connection: nothing of it is taken for a second request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_hides_in_another() {
    let (address, _queue) = start(config()).await;
    let get = "GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let chunks = format!("0\r\n\r\n{get}");
    let cases = [
        (format!("content-length: {}\r\ntransfer-encoding: chunked", chunks.len()), &chunks),
        ("content-length: 2\r\ncontent-length: 3".into(), &chunks),
        ("content-length: 2, 3".into(), &chunks),
        ("content-length: -1".into(), &chunks),
        ("content-length: +2".into(), &chunks),
        ("content-length: 99999999999999999999".into(), &chunks),
        ("transfer-encoding: xchunked".into(), &chunks),
        ("transfer-encoding: chunked, identity".into(), &chunks),
        ("transfer-encoding : chunked".into(), &chunks),
        ("transfer-encoding:\r\n chunked".into(), &chunks),
        ("transfer-encoding: chunked".into(), &format!("x\r\n{chunks}")),
        ("transfer-encoding: chunked".into(), &format!("fffffffffffffffff\r\n{chunks}")),
        ("transfer-encoding: chunked".into(), &format!("2\r\n{{}}XX{chunks}")),
        (
            "transfer-encoding: chunked".into(),
            &format!("2;{}\r\n{{}}\r\n{chunks}", "x".repeat(1 << 20)),
        ),
        (
            "transfer-encoding: chunked".into(),
            &format!("0\r\n{}\r\n{get}", "a: b\r\n".repeat(9999)),
        ),
        ("a: b\0c".into(), &chunks),
    ];
    for (head, rest) in cases {
        let request = format!(
            "POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{head}\r\n\r\n{rest}"
        );
        let answer = tokio::time::timeout(Duration::from_secs(20), exchange(address, &request));
        let answer = answer.await.expect("it is closed");
        assert!(!answer.contains("200 OK"), "{head}: {answer}");
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{head}: {answer}");
    }
    assert!(
        exchange(address, &get.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"))
            .await
            .contains("200 OK")
    );
}

/// A body on its way has memory; what finds none is told to come again, and small ones are not counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_share_a_bounded_memory() {
    const LARGE: usize = 200 << 10;
    let mut config = config();
    (config.limits.max_body_bytes, config.limits.bodies_memory) = (256 << 10, 300 << 10);
    let (address, _queue) = start(config).await;
    let text = "x".repeat(LARGE);
    let begin = async || {
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(post_text(&text, LARGE + 1).as_bytes()).await.unwrap();
        slow
    };
    let mut slow = begin().await;
    let whole = post_text(&text, LARGE);
    let refused = async {
        loop {
            let answer = exchange(address, &whole).await;
            if answer.starts_with("HTTP/1.1 503") {
                return answer;
            }
            // The other one may have been the later one.
            if slow.try_read(&mut [0]).is_ok() {
                slow = begin().await;
            }
            tokio::task::yield_now().await;
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(20), refused).await;
    let refused = refused.expect("there is room for both");
    assert!(refused.contains("--bodies-memory") && refused.contains("retry-after: 1"), "{refused}");
    assert!(post(address, "{").await.starts_with("HTTP/1.1 400"));
    drop(slow);
    let taken = async {
        while !exchange(address, &whole).await.starts_with("HTTP/1.1 400") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), taken).await.expect("its memory is free again");
}

/// Who writes all of a body before it listens is told why it is refused, and not that the connection broke.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_reaches_who_sends_its_body_first() {
    const LARGE: usize = 8 << 20;
    let mut config = config();
    config.limits.max_body_bytes = LARGE - 1;
    let (address, _queue) = start(config).await;
    let text = post_text(&"x".repeat(LARGE), LARGE);
    for _ in 0..5 {
        let answer = exchange(address, &text).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.contains("--max-body-bytes"), "{answer}");
    }
}

/// What comes after a refusal is taken in only as long as a body may take, or four times as much as one may hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_body_without_an_end_is_cut_off() {
    let mut config = config();
    config.limits.max_body_bytes = 1 << 10;
    config.limits.body_read_timeout = Duration::from_millis(300);
    let (address, _queue) = start(config).await;
    let head = post_text("", usize::MAX / 4);
    for (bytes, pause) in [(vec![b'x'; 64 << 10], 0), (vec![b'x'], 20)] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let sends = async {
            while stream.write_all(&bytes).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), sends).await.expect("it is taken in forever");
    }
}

/// Who goes on sending keeps no server from ending: not where its last request was read after all, nor longer than
/// `--shutdown-timeout` where it was not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_still_comes_does_not_hold_up_the_end() {
    let short = "GET /version HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\n12345";
    let long = post_text("", usize::MAX / 4);
    for (request, shutdown_timeout) in
        [(short, Duration::from_secs(600)), (&long, Duration::from_millis(100))]
    {
        let config = ServerConfig { shutdown_timeout, ..config() };
        let (server, _queue) = TestServer::with_queue(config, engine_info());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let state = Arc::clone(&server.state);
        let done = tokio::spawn(serve(http_only(listener), state, async { drop(stopped.await) }));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        // It waits for the next request, or for the rest of this one.
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.send(()).unwrap();
        let ends = async {
            while !done.is_finished() {
                let _ = stream.write_all(b"x").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ends).await.expect("it is held up");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_cancels_its_request() {
    let (address, queue) = start(config()).await;
    for (body, sends) in
        [(r#"{"prompt": "a", "stream": true}"#, true), (r#"{"prompt": "a"}"#, false)]
    {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(post_text(body, body.len()).as_bytes()).await.unwrap();
        let submission = queue.recv().unwrap();
        if sends {
            assert!(submission.events.send(started()) && submission.events.send(token(65)));
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            assert_eq!(&head, b"HTTP/1.1 200");
        }
        assert!(!submission.events.is_closed());
        drop(stream);
        let gone = async {
            while !submission.events.is_closed() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.expect("still running");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_is_cut_off() {
    let mut config = config();
    config.limits.write_timeout = Duration::from_millis(50);
    let mut info = engine_info();
    info.limits.max_model_len = u32::MAX;
    let (server, queue) = TestServer::with_queue(config, info);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(http_only(listener), Arc::clone(&server.state), std::future::pending()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = r#"{"prompt": "a", "stream": true, "max_tokens": 100000000}"#;
    stream.write_all(post_text(body, body.len()).as_bytes()).await.unwrap();
    let submission = queue.recv().unwrap();
    assert!(submission.events.send(started()));
    // The socket's buffers fill up, then the write waits for longer than it may.
    let cut_off = async {
        while submission.events.send(token(65)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), cut_off).await.expect("never cut off");
}

#[test]
fn probes_need_no_runtime_but_their_own() {
    let (server, _queue) = TestServer::with_queue(config(), engine_info());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let probes = ProbeServer::start(listener, Arc::clone(&server.state)).unwrap();
    for (path, status) in
        [("/livez", "200"), ("/readyz", "200"), ("/metrics", "200"), ("/v1/models", "404")]
    {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
    drop(probes);
    let refused = std::net::TcpStream::connect(address);
    assert!(refused.is_err(), "the listener is closed with the server");
}
