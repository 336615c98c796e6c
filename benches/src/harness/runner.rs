//! Sends a run's requests: in a closed loop by users who wait for their answers, in an open loop by a clock that waits for nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use super::failure::{Failure, FailureKind};
use super::lag::{ClientLoad, LagProbe};
use super::live::Live;
use super::target::{Answer, Ask, Message, Target};
use super::workload::{Conversation, Supply};

/// A user without a connection tries again after this, so that a dead server is not asked a million times.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(50);

/// When conversations begin.
#[derive(Clone, Debug)]
pub enum Pace {
    /// So many users, each with one conversation at a time. They come one after the other within `ramp_up`; nobody begins a
    /// conversation after `until`.
    Closed { users: usize, ramp_up: Duration, until: Option<Duration> },
    /// At these times after the start, whatever the server does. At most so many are sent at once; latencies still count
    /// from the intended time.
    Open { times: Vec<Duration>, max_running: Option<usize> },
}

/// One request. Times count from the start of the run.
#[derive(Debug)]
pub struct Record {
    /// When it was meant to be sent.
    pub intended: Duration,
    /// When this client knew that it was due; from there to `sent` it waits for a place among those under way.
    pub due: Duration,
    /// When it was sent, before opening a connection.
    pub sent: Duration,
    pub ended: Duration,
    pub result: Result<Answer, Failure>,
}

/// All requests of a run.
#[derive(Debug, Default)]
pub struct Run {
    pub records: Vec<Record>,
    /// From the first request's intended time to the end of the last.
    pub seconds: f64,
    pub client: ClientLoad,
    pub peak_running: usize,
    /// Conversations that had been held before in this run.
    pub num_repeated: usize,
}

struct Shared {
    target: Arc<Target>,
    supply: Arc<Supply>,
    live: Arc<Live>,
    start: Instant,
    records: mpsc::UnboundedSender<Record>,
}

/// Sends all of it and waits for the end of all. An interrupt ends the sending, a second one the program.
pub async fn run(target: Arc<Target>, supply: Arc<Supply>, pace: Pace, live: Arc<Live>) -> Run {
    let probe = LagProbe::start();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let start = Instant::now();
    let (live_here, supplied) = (live.clone(), supply.clone());
    let shared = Arc::new(Shared { target, supply, live: live_here, start, records: sender });
    let is_open = matches!(pace, Pace::Open { .. });
    match pace {
        Pace::Closed { users, ramp_up, until } => closed(&shared, users, ramp_up, until),
        Pace::Open { times, max_running } => open(&shared, times, max_running),
    }
    drop(shared);
    let mut records = Vec::new();
    loop {
        tokio::select! {
            record = receiver.recv() => match record {
                Some(record) => records.push(record),
                None => break,
            },
            Ok(()) = tokio::signal::ctrl_c() => {
                if live.stops() {
                    std::process::exit(130);
                }
                live.stop();
            }
        }
    }
    let first = records.iter().map(|record| record.intended).min().unwrap_or_default();
    let last = records.iter().map(|record| record.ended).max().unwrap_or_default();
    let late = |record: &Record| record.due.saturating_sub(record.intended).as_secs_f64() * 1e3;
    let has_limit = is_open.then(|| records.iter().map(late).collect::<Vec<f64>>());
    let client = probe.stop(&has_limit.unwrap_or_default()).await;
    Run {
        records,
        seconds: last.saturating_sub(first).as_secs_f64(),
        client,
        peak_running: live.peak_running.load(Relaxed),
        num_repeated: supplied.num_repeated(),
    }
}

fn closed(shared: &Arc<Shared>, users: usize, ramp_up: Duration, until: Option<Duration>) {
    let next = Arc::new(AtomicUsize::new(0));
    for user in 0..users {
        let (shared, next) = (shared.clone(), next.clone());
        let begins = ramp_up.mul_f64(user as f64 / users as f64);
        tokio::spawn(async move {
            tokio::time::sleep_until((shared.start + begins).into()).await;
            loop {
                let is_over = until.is_some_and(|until| shared.start.elapsed() >= until);
                if is_over || shared.live.stops() {
                    break;
                }
                let Some(conversation) = shared.supply.at(next.fetch_add(1, Relaxed)) else {
                    break;
                };
                let intended = shared.start.elapsed();
                let is_reached = converse(&shared, &conversation, intended, intended).await;
                if !is_reached {
                    tokio::time::sleep(UNREACHABLE_PAUSE).await;
                }
            }
        });
    }
}

/// A thread of its own keeps the times: timers of the runtime are exact to a millisecond, and wait for tasks.
fn open(shared: &Arc<Shared>, times: Vec<Duration>, max_running: Option<usize>) {
    let (shared, runtime) = (shared.clone(), Handle::current());
    let slots = Arc::new(Semaphore::new(max_running.unwrap_or(Semaphore::MAX_PERMITS)));
    std::thread::spawn(move || {
        for (index, intended) in times.into_iter().enumerate() {
            std::thread::sleep((shared.start + intended).saturating_duration_since(Instant::now()));
            if shared.live.stops() {
                break;
            }
            let (shared, slots) = (shared.clone(), slots.clone());
            runtime.spawn(async move {
                let due = shared.start.elapsed();
                let slot = slots.acquire().await;
                if let Some(conversation) = shared.supply.at(index) {
                    converse(&shared, &conversation, intended, due).await;
                }
                drop(slot);
            });
        }
    });
}

/// One conversation; each later turn is meant to be sent when the one before it has ended. Whether the server was reached.
async fn converse(
    shared: &Shared,
    conversation: &Conversation,
    mut intended: Duration,
    mut due: Duration,
) -> bool {
    let mut messages = Vec::new();
    messages.extend(conversation.system.clone().map(|content| Message { role: "system", content }));
    let mut is_reached = true;
    for (turn_index, turn) in conversation.turns.iter().enumerate() {
        messages.push(Message { role: "user", content: turn.text.clone() });
        let keeps_text = turn_index + 1 < conversation.turns.len();
        let ask = Ask { messages: &messages, max_tokens: turn.max_tokens, keeps_text };
        shared.live.begin();
        let sent = Instant::now();
        let result = shared.target.ask(ask, sent, &shared.live).await;
        shared.live.end(result.is_ok());
        is_reached = !matches!(&result, Err(failure) if failure.kind == FailureKind::Unreachable);
        let answer = result.as_ref().ok().map(|answer| answer.text.clone());
        let sent = sent - shared.start;
        let ended = match &result {
            Ok(answer) => sent + answer.last,
            Err(_) => shared.start.elapsed(),
        };
        let record = Record { intended, due, sent, ended, result };
        // The receiver waits until all senders are gone.
        drop(shared.records.send(record));
        let Some(content) = answer else { break };
        messages.push(Message { role: "assistant", content });
        (intended, due) = (shared.start.elapsed(), shared.start.elapsed());
    }
    is_reached
}
