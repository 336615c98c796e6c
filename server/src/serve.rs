//! Runs the front-ends: the listeners of HTTP and gRPC, the probes on a thread of their own, and the way down.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::app::{self, SharedState};
use crate::grpc;
use crate::http::connections::{Connections, Protocol};
use crate::http::tls::Tls;
use crate::reload::{self, Source};

/// How often recorded samples are sorted into buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Where clients come in.
pub struct Listeners {
    pub http: TcpListener,
    pub grpc: Option<TcpListener>,
    /// `None`: gRPC without TLS.
    pub grpc_tls: Option<Tls>,
}

/// A listener and its connections.
struct Door {
    listener: TcpListener,
    connections: Connections,
}

/// Serves `listeners` until `shutdown` is done, then drains: readiness goes red, after `shutdown_delay` new requests get
/// 503, running ones have `shutdown_timeout` to finish. Bound to loopback, HTTP requests for other hosts are refused.
pub async fn serve(
    listeners: Listeners,
    state: SharedState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let sources = sources(&state, listeners.grpc_tls.as_ref());
    let mut doors = doors(listeners, &state)?;
    let upkeep = tokio::spawn(upkeep(state.clone()));
    // Without a handler it would end the process.
    let hangup = signal(SignalKind::hangup()).ok();
    let files = tokio::spawn(reload::watch(sources, hangup));

    accept(&mut doors, shutdown).await;
    state.leave();
    if !state.config.shutdown_delay.is_zero() {
        tracing::info!("readiness is red; requests are taken until routers have seen it");
        accept(&mut doors, tokio::time::sleep(state.config.shutdown_delay)).await;
    }
    state.drain();
    tracing::info!("draining");
    let deadline = Instant::now() + state.config.shutdown_timeout;
    // Probes and late requests are still answered, or they would see a dead server.
    let until_idle = tokio::time::timeout(state.config.shutdown_timeout, state.idle());
    accept(&mut doors, async { drop(until_idle.await) }).await;

    state.abort();
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    join_all(doors.into_iter().map(|door| door.connections.close(left))).await;
    if let Some(exporter) = state.config.traces.clone() {
        // What the last requests were is worth a moment.
        let _ = tokio::task::spawn_blocking(move || exporter.flush()).await;
    }
    upkeep.abort();
    files.abort();
    Ok(())
}

fn doors(listeners: Listeners, state: &SharedState) -> io::Result<Vec<Door>> {
    let limits = &state.config.limits;
    let is_loopback = listeners.http.local_addr()?.ip().is_loopback();
    let http = app::router(state.clone(), is_loopback);
    let connections = Connections::new(Protocol::Http1, http, limits.clone());
    let mut doors = vec![Door { listener: listeners.http, connections }];
    if let Some(listener) = listeners.grpc {
        let grpc = grpc::router(state.clone());
        let connections =
            Connections::new(Protocol::Http2, grpc, limits.clone()).with_tls(listeners.grpc_tls);
        doors.push(Door { listener, connections });
    }
    Ok(doors)
}

/// What may change while it is served.
fn sources(state: &SharedState, tls: Option<&Tls>) -> Vec<Source> {
    let keys = state.tenants.file().map(|path| {
        let (state, paths) = (state.clone(), vec![path.to_owned()]);
        let read = move || state.tenants.reload();
        let (ok, reloads) = ("quire_keys_file_ok", "quire_keys_file_reloads_total");
        Source { what: "the keys file", ok, reloads, paths, read: Arc::new(read) }
    });
    let certificate = tls.map(|tls| {
        let (tls, paths) = (tls.clone(), tls.paths());
        let read = move || Ok(tls.reload()?);
        let (ok, reloads) = ("quire_tls_certificate_ok", "quire_tls_certificate_reloads_total");
        Source { what: "the TLS certificate", ok, reloads, paths, read: Arc::new(read) }
    });
    keys.into_iter().chain(certificate).collect()
}

/// Accepts at all doors until `until` is done.
async fn accept(doors: &mut [Door], until: impl Future<Output = ()>) {
    let until = until.shared();
    let accepting =
        doors.iter_mut().map(|door| door.connections.accept(&door.listener, until.clone()));
    join_all(accepting).await;
}

/// The probes' own listener; dropping it ends the thread.
pub struct ProbeServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ProbeServer {
    /// Serves the probes and `/metrics` on `listener` from a thread and runtime of its own, so that no load on the main
    /// runtime delays a probe or a scrape.
    pub fn start(listener: StdTcpListener, state: SharedState) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let is_loopback = listener.local_addr()?.ip().is_loopback();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = Builder::new().name("quire-probes".into()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                let router = app::probe_router(state.clone(), is_loopback);
                let limits = state.config.limits.clone();
                let mut connections = Connections::new(Protocol::Http1, router, limits);
                connections.accept(&listener, async { drop(stopped.await) }).await;
                connections.close(Duration::from_secs(1)).await;
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ProbeServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the probe thread panicked");
        }
    }
}

async fn upkeep(state: SharedState) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        state.metrics.run_upkeep();
    }
}
