//! The door between front-ends and the engine thread: one queue in, one stream out for each request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender};
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures_channel::oneshot;
use futures_core::Stream;
use parking_lot::Mutex;
pub use quire_scheduler::SchedulerStats;

use crate::request::{Request, StreamEvent, SubmitError};
use crate::router::Router;
use crate::validate::{InvalidRequest, RequestLimits};
use crate::view::EngineView;

/// Looks at an engine that may wait for it.
const MAX_LOOKS: usize = 4;

/// What front-ends may know of the model that runs.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    pub limits: RequestLimits,
    /// Requests that may wait at once (`--max-num-queued-reqs`).
    pub max_num_queued: u32,
    /// Sequences in one step (`--max-num-seqs`).
    pub max_num_seqs: u32,
    /// Tokens in one step (`--max-num-batched-tokens`).
    pub max_num_batched_tokens: u32,
    pub block_size: u32,
    pub num_blocks: u32,
}

/// What the engine thread and its handles share.
struct Shared {
    info: EngineInfo,
    /// Requests in the queue or waiting in the scheduler.
    num_waiting: AtomicU32,
    /// Requests submitted and not yet finished.
    num_unfinished: AtomicU32,
    draining: AtomicBool,
    stopped: AtomicBool,
    started: Instant,
    /// Milliseconds after `started` at which the loop began its present turn; 0 while it is idle.
    busy_since_ms: AtomicU64,
    stats: Mutex<SchedulerStats>,
    last_step: Mutex<LastStep>,
}

/// The step that an engine began last: when it hangs, most likely this one does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastStep {
    /// Since the start of the engine; the first one is 0.
    pub number: u64,
    pub num_sequences: u32,
    pub num_tokens: u32,
}

/// Of one engine, or of several that run the same model, its replicas. Cheap to clone; the engines stop when the last one is
/// dropped.
#[derive(Clone)]
pub struct EngineHandle {
    replicas: Arc<[Replica]>,
    /// Of several.
    router: Option<Arc<Mutex<Router>>>,
}

/// One engine's end.
#[derive(Clone)]
struct Replica {
    shared: Arc<Shared>,
    queue: Sender<Submission>,
    looks: Sender<Look>,
}

/// The engine's end of the queue.
pub struct EngineQueue {
    shared: Arc<Shared>,
    queue: Receiver<Submission>,
    looks: Receiver<Look>,
}

/// Somebody wants to see the engine.
pub struct Look {
    /// Into so many cells at most its blocks are gathered.
    pub max_cells: u32,
    reply: oneshot::Sender<EngineView>,
}

/// Why a sleep ended.
#[allow(clippy::large_enum_variant, reason = "it is taken apart where it is made")]
pub enum Woken {
    ByRequest(Submission),
    ByLook(Look),
}

/// A request on its way to the engine.
pub struct Submission {
    pub request: Request,
    pub events: EventSender,
}

/// The engine's end of one request's stream.
pub struct EventSender {
    sender: UnboundedSender<StreamEvent>,
    is_satisfied: Arc<AtomicBool>,
    shared: Arc<Shared>,
}

/// One request's events. Dropping it cancels the request.
pub struct TokenStream {
    // Bounded by the model: a request has at most max_model_len tokens.
    receiver: UnboundedReceiver<StreamEvent>,
    /// What came is all that was wanted.
    is_satisfied: Arc<AtomicBool>,
}

/// How the engine thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineHealth {
    /// Idle, or in a turn of the loop for this long.
    Alive {
        turn: Duration,
    },
    Draining {
        turn: Duration,
    },
    Stopped,
}

impl EngineHandle {
    /// A handle and the queue that an engine (or a test's stand-in) serves.
    pub fn new(info: EngineInfo) -> (Self, EngineQueue) {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let shared = Arc::new(Shared {
            info,
            num_waiting: AtomicU32::new(0),
            num_unfinished: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            started: Instant::now(),
            busy_since_ms: AtomicU64::new(0),
            stats: Mutex::new(SchedulerStats::default()),
            last_step: Mutex::new(LastStep::default()),
        });
        let (look_sender, looks) = crossbeam_channel::bounded(MAX_LOOKS);
        let queue = EngineQueue { shared: Arc::clone(&shared), queue: receiver, looks };
        let replica = Replica { shared, queue: sender, looks: look_sender };
        (Self { replicas: Arc::new([replica]), router: None }, queue)
    }

    /// One door for engines that run the same model.
    ///
    /// # Panics
    /// When there is none, or more than `MAX_REPLICAS`.
    pub fn of_replicas(handles: &[Self]) -> Self {
        let replicas: Arc<[Replica]> =
            handles.iter().flat_map(|handle| handle.replicas.iter().cloned()).collect();
        let info = &replicas.first().expect("there is an engine").shared.info;
        let router = Router::new(replicas.len(), info.block_size, info.num_blocks);
        let router = (replicas.len() > 1).then(|| Arc::new(Mutex::new(router)));
        Self { replicas, router }
    }

    /// Checks the request and queues it where its answer should come first; the answer arrives on the stream.
    pub fn generate(&self, request: Request) -> Result<TokenStream, SubmitError> {
        self.info().limits.check(&request)?;
        let Some(router) = &self.router else { return self.replicas[0].generate(request) };
        let open: Vec<Option<u32>> = self.replicas.iter().map(Replica::open_to_requests).collect();
        let chosen = router.lock().choose(&request.prompt, &request.cache_salt, &open);
        // Of those that take nothing the first says why.
        self.replicas[chosen.unwrap_or(0)].generate(request)
    }

    /// As `generate`, by the replica `rank` where one is named.
    pub fn generate_on(
        &self,
        rank: Option<u32>,
        request: Request,
    ) -> Result<TokenStream, SubmitError> {
        let Some(rank) = rank else { return self.generate(request) };
        let Some(replica) = self.replicas.get(rank as usize) else {
            let message = format!("there is no replica {rank}: {} run", self.replicas.len());
            let param = "x-data-parallel-rank";
            return Err(InvalidRequest { param, message, is_context_length: false }.into());
        };
        self.info().limits.check(&request)?;
        if let Some(router) = &self.router {
            // The others are as good as closed: the router learns where the prompt went.
            let mut open = vec![None; self.replicas.len()];
            open[rank as usize] = replica.open_to_requests();
            let _ = router.lock().choose(&request.prompt, &request.cache_salt, &open);
        }
        replica.generate(request)
    }

    /// What is the same of all replicas.
    pub fn info(&self) -> &EngineInfo {
        &self.replicas[0].shared.info
    }

    pub fn num_replicas(&self) -> usize {
        self.replicas.len()
    }

    /// Refuses new requests from now on; those taken are finished.
    pub fn drain(&self) {
        self.replicas
            .iter()
            .for_each(|replica| replica.shared.draining.store(true, Ordering::Release));
    }

    /// Requests submitted and not yet finished.
    pub fn num_unfinished(&self) -> u32 {
        self.replicas.iter().map(Replica::num_unfinished).sum()
    }

    /// Requests that wait for a place in the batch.
    pub fn num_waiting(&self) -> u32 {
        let waiting = |replica: &Replica| replica.shared.num_waiting.load(Ordering::Acquire);
        self.replicas.iter().map(waiting).sum()
    }

    /// The scheduler's figures after its last turn; of several replicas those of the first.
    pub fn stats(&self) -> SchedulerStats {
        self.stats_of(0)
    }

    /// The figures of a replica.
    pub fn stats_of(&self, replica: usize) -> SchedulerStats {
        *self.replicas[replica].shared.stats.lock()
    }

    /// What a replica looks like after the turn of its loop that is under way; `None` when it has ended, or too many ask.
    pub async fn view_of(&self, replica: usize, max_cells: u32) -> Option<EngineView> {
        let (reply, answer) = oneshot::channel();
        self.replicas[replica].looks.try_send(Look { max_cells, reply }).ok()?;
        answer.await.ok()
    }

    /// That of the replica which is worst off.
    pub fn health(&self) -> EngineHealth {
        self.worst().0
    }

    /// The last step of that replica.
    pub fn last_step(&self) -> LastStep {
        *self.worst().1.shared.last_step.lock()
    }

    fn worst(&self) -> (EngineHealth, &Replica) {
        let badness = |health: &EngineHealth| match *health {
            EngineHealth::Alive { turn } => (0, turn),
            EngineHealth::Draining { turn } => (1, turn),
            EngineHealth::Stopped => (2, Duration::ZERO),
        };
        let all = self.replicas.iter().map(|replica| (replica.health(), replica));
        all.max_by_key(|(health, _)| badness(health)).expect("there is an engine")
    }
}

impl Replica {
    /// Requests that it has, if it takes more.
    fn open_to_requests(&self) -> Option<u32> {
        let shared = &self.shared;
        let is_closed = shared.stopped.load(Ordering::Acquire)
            || shared.draining.load(Ordering::Acquire)
            || shared.num_waiting.load(Ordering::Acquire) >= shared.info.max_num_queued;
        (!is_closed).then(|| self.num_unfinished())
    }

    fn num_unfinished(&self) -> u32 {
        self.shared.num_unfinished.load(Ordering::Acquire)
    }

    /// Of a request that was checked.
    fn generate(&self, request: Request) -> Result<TokenStream, SubmitError> {
        let shared = &self.shared;
        if shared.stopped.load(Ordering::Acquire) {
            return Err(SubmitError::Stopped);
        }
        if shared.draining.load(Ordering::Acquire) {
            return Err(SubmitError::Draining);
        }
        let limit = shared.info.max_num_queued;
        let take = |waiting: u32| (waiting < limit).then_some(waiting + 1);
        if shared.num_waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_err() {
            return Err(SubmitError::QueueFull { limit });
        }
        shared.num_unfinished.fetch_add(1, Ordering::AcqRel);
        let (sender, receiver) = unbounded();
        let is_satisfied = Arc::new(AtomicBool::new(false));
        let stream = TokenStream { receiver, is_satisfied: Arc::clone(&is_satisfied) };
        let events = EventSender { sender, is_satisfied, shared: Arc::clone(shared) };
        match self.queue.send(Submission { request, events }) {
            Ok(()) => Ok(stream),
            Err(_) => Err(SubmitError::Stopped),
        }
    }

    fn health(&self) -> EngineHealth {
        let shared = &self.shared;
        if shared.stopped.load(Ordering::Acquire) {
            return EngineHealth::Stopped;
        }
        let turn = match shared.busy_since_ms.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => shared.started.elapsed().saturating_sub(Duration::from_millis(since)),
        };
        if shared.draining.load(Ordering::Acquire) {
            return EngineHealth::Draining { turn };
        }
        EngineHealth::Alive { turn }
    }
}

impl EngineQueue {
    /// The next request if one is there. `Err` when every handle is gone.
    pub fn try_recv(&self) -> Result<Option<Submission>, Disconnected> {
        match self.queue.try_recv() {
            Ok(submission) => Ok(Some(submission)),
            Err(crossbeam_channel::TryRecvError::Empty) => Ok(None),
            Err(crossbeam_channel::TryRecvError::Disconnected) => Err(Disconnected),
        }
    }

    /// Sleeps until a request comes. `Err` when every handle is gone.
    pub fn recv(&self) -> Result<Submission, Disconnected> {
        self.queue.recv().map_err(|_| Disconnected)
    }

    /// Sleeps until a request comes, or somebody who wants to look. `Err` when every handle is gone.
    pub fn wait(&self) -> Result<Woken, Disconnected> {
        let mut select = Select::new();
        let request = select.recv(&self.queue);
        select.recv(&self.looks);
        let ready = select.select();
        if ready.index() == request {
            return ready.recv(&self.queue).map(Woken::ByRequest).map_err(|_| Disconnected);
        }
        // Handles go with both of their ends.
        ready.recv(&self.looks).map(Woken::ByLook).or_else(|_| self.recv().map(Woken::ByRequest))
    }

    /// Who wants to look now.
    pub fn next_look(&self) -> Option<Look> {
        self.looks.try_recv().ok()
    }

    /// Marks the begin of a turn of the loop.
    pub fn beat(&self) {
        let now = self.shared.started.elapsed().as_millis() as u64;
        self.shared.busy_since_ms.store(now.max(1), Ordering::Release);
    }

    /// A step is about to be launched.
    pub fn begin_step(&self, step: LastStep) {
        *self.shared.last_step.lock() = step;
    }

    /// The loop is about to sleep.
    pub fn idle(&self) {
        self.shared.busy_since_ms.store(0, Ordering::Release);
    }

    /// Says that the engine takes nothing more.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
    }

    /// Tells the handles what the scheduler counts after a turn of the loop.
    pub fn publish(&self, stats: SchedulerStats) {
        let waiting = stats.num_waiting + self.queue.len() as u32;
        self.shared.num_waiting.store(waiting, Ordering::Release);
        *self.shared.stats.lock() = stats;
    }
}

impl Drop for EngineQueue {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Look {
    /// Nothing happens when who asked has gone.
    pub fn answer(self, view: EngineView) {
        let _ = self.reply.send(view);
    }
}

/// Every handle is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnected;

impl EventSender {
    /// `false` when the client has gone.
    pub fn send(&self, event: StreamEvent) -> bool {
        self.sender.unbounded_send(event).is_ok()
    }

    /// Whether the client has gone.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether it went with all that it wanted.
    pub fn is_satisfied(&self) -> bool {
        self.is_satisfied.load(Ordering::Acquire)
    }
}

impl Drop for EventSender {
    fn drop(&mut self) {
        self.shared.num_unfinished.fetch_sub(1, Ordering::AcqRel);
    }
}

impl TokenStream {
    /// Ends the request where it is because its answer is whole, as after a stop string: it counts as stopped, not aborted.
    pub fn satisfied(self) {
        self.is_satisfied.store(true, Ordering::Release);
    }

    /// The next event, waiting for it on this thread. `None` after `Finished`, or when the engine has stopped.
    pub fn blocking_next(&mut self) -> Option<StreamEvent> {
        futures_executor::block_on(std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)))
    }
}

impl Stream for TokenStream {
    type Item = StreamEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<StreamEvent>> {
        Pin::new(&mut self.receiver).poll_next(cx)
    }
}
