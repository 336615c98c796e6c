//! Accepts connections and serves HTTP/1.1 or HTTP/2 on each: how many, how long, how large a head.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tower::util::MapRequest;

use super::head_clock::HeadClock;
use super::linger::{Linger, WatchedBody};
use super::places::{Place, Places};
use super::stall::StallGuard;
use super::tls::Tls;
use crate::limits::ServerLimits;

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// With prior knowledge, as gRPC has it.
    Http2,
}

/// The connections of one listener.
pub struct Connections {
    protocol: Protocol,
    /// `None`: connections are as they come.
    tls: Option<Tls>,
    router: Router,
    limits: ServerLimits,
    places: Places,
    graceful: GracefulShutdown,
    tasks: JoinSet<()>,
}

impl Connections {
    pub fn new(protocol: Protocol, router: Router, limits: ServerLimits) -> Self {
        let places = Places::new(limits.max_connections);
        let (graceful, tasks) = (GracefulShutdown::new(), JoinSet::new());
        Self { protocol, tls: None, router, limits, places, graceful, tasks }
    }

    /// Connections are those of `tls`.
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Accepts until `until` is done; connections run on.
    pub async fn accept(&mut self, listener: &TcpListener, until: impl Future<Output = ()>) {
        let mut until = pin!(until);
        loop {
            tokio::select! {
                biased;
                () = &mut until => return,
                Some(_) = self.tasks.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.spawn(stream),
                    Err(error) => back_off(&error).await,
                },
            }
        }
    }

    /// Idle connections close now, the others after their present request, all of them after `timeout`.
    pub async fn close(mut self, timeout: Duration) {
        if tokio::time::timeout(timeout, self.graceful.shutdown()).await.is_err() {
            tracing::warn!(open = self.tasks.len(), "connections cut off at the shutdown timeout");
        }
        self.tasks.shutdown().await;
    }

    fn spawn(&mut self, stream: TcpStream) {
        let Some(place) = self.places.take() else {
            refuse(stream, self.protocol);
            return;
        };
        let (router, limits, protocol) = (self.router.clone(), self.limits.clone(), self.protocol);
        let watcher = self.graceful.watcher();
        let (stream, signs) = guarded(stream, &place, &limits);
        match self.tls.clone() {
            None => {
                let served = serve(protocol, stream, signs, router, limits, watcher);
                self.tasks.spawn(holding(place, served))
            }
            Some(tls) => self.tasks.spawn(holding(place, async move {
                let greeting = tls.acceptor().accept(stream);
                match tokio::time::timeout(limits.header_read_timeout, greeting).await {
                    Ok(Ok(stream)) => serve(protocol, stream, signs, router, limits, watcher).await,
                    Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
                    Err(_) => tracing::debug!("TLS was not agreed on in time"),
                }
            })),
        };
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    protocol: Protocol,
    stream: S,
    signs: Signs,
    router: Router,
    limits: ServerLimits,
    watcher: Watcher,
) {
    match protocol {
        Protocol::Http1 => serve_http1(stream, signs, router, limits, watcher).await,
        Protocol::Http2 => serve_http2(stream, router, limits, watcher).await,
    }
}

async fn holding(place: Place, connection: impl Future<Output = ()>) {
    connection.await;
    drop(place);
}

/// What an HTTP/1.1 connection and its socket tell each other.
struct Signs {
    clock: HeadClock,
    is_unread: Arc<AtomicBool>,
}

/// A peer that reads nothing for too long is cut off; one that still sends hears the answer before the end.
fn guarded(
    stream: TcpStream,
    place: &Place,
    limits: &ServerLimits,
) -> (StallGuard<Linger<TcpStream>>, Signs) {
    // Tokens are small writes; waiting to fill a packet would delay each one.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set_nodelay");
    }
    let stream = Linger::new(stream, limits);
    let is_unread = stream.is_unread();
    let stream = StallGuard::new(stream, limits.write_timeout);
    let clock = HeadClock::new(stream.has_read(), Arc::clone(&is_unread), place.clone(), limits);
    (stream, Signs { clock, is_unread })
}

async fn serve_http1(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    Signs { clock, is_unread }: Signs,
    router: Router,
    limits: ServerLimits,
    watcher: Watcher,
) {
    let watched = MapRequest::new(router, move |request: Request<Incoming>| {
        request.map(|body| WatchedBody::wrap(body, &is_unread))
    });
    let connection = http1::Builder::new()
        .timer(clock)
        .header_read_timeout(limits.header_read_timeout)
        .max_headers(limits.max_headers)
        .max_header_size(limits.max_header_bytes)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(watched));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "connection ended");
    }
}

async fn serve_http2(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    router: Router,
    limits: ServerLimits,
    watcher: Watcher,
) {
    // A peer that is gone without a word is found out by a ping.
    const PING_INTERVAL: Duration = Duration::from_secs(30);
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(limits.header_read_timeout)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "connection ended");
    }
}

/// One more than the limit: told so at once, without taking part in anything.
fn refuse(mut stream: TcpStream, protocol: Protocol) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
        retry-after: 1\r\nconnection: close\r\ncontent-length: 121\r\n\r\n\
        {\"error\":{\"message\":\"too many connections (--max-connections)\",\"type\":\
        \"ServiceUnavailableError\",\"param\":null,\"code\":503}}";
    tracing::warn!("connection refused: --max-connections are open");
    if protocol == Protocol::Http2 {
        // Closed before a word: a client of gRPC takes that as UNAVAILABLE.
        return;
    }
    tokio::spawn(async move {
        let _ = stream.write_all(ANSWER).await;
        let _ = stream.shutdown().await;
    });
}

/// Out of file descriptors, say: without a pause the loop would spin.
async fn back_off(error: &io::Error) {
    tracing::warn!(%error, "accept failed");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
