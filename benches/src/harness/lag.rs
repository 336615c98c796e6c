//! How late this client itself is: a clock of its own asks its runtime every few milliseconds to do nothing.
//!
//! A tick is due at a fixed time and noted when a task of the runtime sees it, so what is measured is how much later than
//! it came a chunk may have been noted: queues of the runtime, and waiting for a processor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::process::own_processor_time;
use crate::statistics::Summary;

const TICK: Duration = Duration::from_millis(5);

/// Above the larger of these a run is marked: milliseconds, share of the median TTFT.
const MARKED: (f64, f64) = (1.0, 0.01);
/// Above the larger of these it is invalid.
const INVALID: (f64, f64) = (5.0, 0.05);

/// What the client cost and how late it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientLoad {
    /// How late the client saw its own ticks, milliseconds.
    pub lag: Summary,
    /// How late requests were sent, milliseconds; open loops only.
    pub dispatch: Summary,
    /// Processor time of the client over the time of the run.
    pub cores: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Validity {
    Valid,
    /// The client was late enough to be seen in short latencies.
    Marked,
    /// The client was too late for its figures to be the server's.
    Invalid,
}

impl ClientLoad {
    /// The client's lateness (99th percentile, of ticks and of sending) against the median TTFT, milliseconds.
    pub fn validity(&self, ttft_p50: f64) -> Validity {
        let late = self.lag.p99.max(self.dispatch.p99);
        let beyond = |(least, share): (f64, f64)| late > least.max(share * ttft_p50);
        match () {
            () if beyond(INVALID) => Validity::Invalid,
            () if beyond(MARKED) => Validity::Marked,
            () => Validity::Valid,
        }
    }
}

/// Ticks until it is stopped.
pub struct LagProbe {
    stops: Arc<AtomicBool>,
    clock: JoinHandle<()>,
    lags: tokio::task::JoinHandle<Vec<f64>>,
    start: Instant,
    processor_time: f64,
}

impl LagProbe {
    /// In the runtime that the load runs in.
    pub fn start() -> Self {
        let stops = Arc::new(AtomicBool::new(false));
        let (sender, mut due) = mpsc::unbounded_channel::<Instant>();
        let lags = tokio::spawn(async move {
            let mut lags = Vec::new();
            while let Some(due) = due.recv().await {
                lags.push(due.elapsed().as_secs_f64() * 1e3);
            }
            lags
        });
        let stopped = stops.clone();
        let clock = std::thread::spawn(move || {
            let mut due = Instant::now();
            while !stopped.load(Relaxed) {
                // Each tick has its time, also those that were overslept.
                due += TICK;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                if sender.send(due).is_err() {
                    break;
                }
            }
        });
        Self { stops, clock, lags, start: Instant::now(), processor_time: own_processor_time() }
    }

    /// `dispatch`: how late requests were sent, milliseconds.
    pub async fn stop(self, dispatch: &[f64]) -> ClientLoad {
        self.stops.store(true, Relaxed);
        // It ends within a tick, and then the task has all of them.
        let lags = self.lags.await.unwrap_or_default();
        drop(self.clock.join());
        let cores =
            (own_processor_time() - self.processor_time) / self.start.elapsed().as_secs_f64();
        ClientLoad { lag: Summary::of(&lags), dispatch: Summary::of(dispatch), cores }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(late: f64) -> ClientLoad {
        ClientLoad { lag: Summary::of(&[late; 100]), ..ClientLoad::default() }
    }

    #[test]
    fn a_late_client_makes_a_run_invalid() {
        let cases = [
            (0.5, 20.0, Validity::Valid),
            (2.0, 20.0, Validity::Marked),
            (6.0, 20.0, Validity::Invalid),
            (6.0, 1000.0, Validity::Valid),
            (60.0, 1000.0, Validity::Invalid),
        ];
        for (late, ttft, expected) in cases {
            assert_eq!(client(late).validity(ttft), expected, "{late} ms late, TTFT {ttft} ms");
        }
        let dispatch = ClientLoad { dispatch: Summary::of(&[9.0; 9]), ..client(0.1) };
        assert_eq!(dispatch.validity(20.0), Validity::Invalid);
    }

    #[test]
    fn a_blocked_runtime_is_noticed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let load = runtime.expect("a runtime").block_on(async {
            let probe = LagProbe::start();
            tokio::time::sleep(Duration::from_millis(20)).await;
            // Nothing else runs on this thread meanwhile.
            std::thread::sleep(Duration::from_millis(100));
            tokio::time::sleep(Duration::from_millis(20)).await;
            probe.stop(&[]).await
        });
        assert!(load.lag.max >= 90.0, "{:?}", load.lag);
        assert_eq!(load.validity(50.0), Validity::Invalid);
    }
}
