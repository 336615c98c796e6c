//! Runs the front-end: the main listener, the probes on a thread of their own, and the way down.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::app::{self, SharedState};
use crate::http::connections::Connections;

/// How often recorded samples are sorted into buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Serves `listener` until `shutdown` is done, then drains: readiness goes red, new requests get 503, running ones
/// have `shutdown_timeout` to finish. Bound to loopback, requests for other hosts are refused.
pub async fn serve(
    listener: TcpListener,
    state: SharedState,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let is_loopback = listener.local_addr()?.ip().is_loopback();
    let router = app::router(state.clone(), is_loopback);
    let mut connections = Connections::new(router, state.config.limits.clone());
    let upkeep = tokio::spawn(upkeep(state.clone()));

    connections.accept(&listener, shutdown).await;
    state.drain();
    tracing::info!("draining");
    let deadline = Instant::now() + state.config.shutdown_timeout;
    // Probes and late requests are still answered, or they would see a dead server.
    let until_idle = tokio::time::timeout(state.config.shutdown_timeout, state.idle());
    connections.accept(&listener, async { drop(until_idle.await) }).await;

    state.abort();
    let left = deadline.saturating_duration_since(Instant::now());
    connections.close(left.max(Duration::from_secs(1))).await;
    upkeep.abort();
    Ok(())
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
                let mut connections = Connections::new(router, state.config.limits.clone());
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
