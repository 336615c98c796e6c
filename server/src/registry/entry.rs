//! One model of the registry: its names, its files, and its engine while it is loaded.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use quire_engine::MemoryPlan;
use tokio::sync::watch;

use super::{Card, KeepAlive, Loading, ModelSettings};
use crate::app::unix_time;
use crate::model::ServedModel;

/// Where a model comes from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// A GGUF file or a directory with safetensors.
    pub path: PathBuf,
    /// What a Modelfile says of it.
    pub settings: Arc<ModelSettings>,
    /// Of its manifest in the store.
    pub digest: Option<String>,
}

/// A model that may be asked for.
pub struct Entry {
    /// The first one is what answers and metrics call it.
    names: Vec<String>,
    origin: Origin,
    is_pinned: bool,
    /// Seconds since 1970 at which it was added.
    created: u64,
    card: OnceLock<Arc<Card>>,
    /// Tokens of its context: as planned, then as it was loaded last; 0: not known yet.
    max_model_len: AtomicU32,
    slot: Mutex<Slot>,
}

/// What changes.
pub(super) struct Slot {
    loaded: Option<Loaded>,
    pub(super) loading: Option<Loading>,
    /// Requests that come now wait for another turn: a model waits for this one's memory.
    pub(super) gives_way: bool,
    pub(super) last_used: Instant,
    /// What the last request asked for.
    keep_alive: Option<KeepAlive>,
}

/// What a loaded model takes.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    pub num_bytes: u64,
    pub is_on_gpu: bool,
    /// Bytes of each part, of one of several replicas.
    pub memory: Arc<[(&'static str, u64)]>,
    /// The lines of its plan.
    pub plan: Arc<[(&'static str, String)]>,
}

impl Taken {
    pub fn of(plan: &MemoryPlan) -> Self {
        let draft = plan.draft.as_ref().map(|draft| ("draft model", draft.total_bytes()));
        let parts = [
            ("weights", plan.weight_bytes),
            ("KV cache", plan.kv_bytes),
            ("workspace", plan.workspace_bytes),
        ];
        Self {
            num_bytes: plan.total_bytes(),
            is_on_gpu: plan.place.gpu().is_some(),
            memory: parts.into_iter().chain(draft).collect(),
            plan: plan.table().into(),
        }
    }
}

/// A model in memory.
pub(super) struct Loaded {
    model: Arc<ServedModel>,
    taken: Taken,
    is_leaving: Arc<AtomicBool>,
    /// Done when every thread of the engine has ended.
    ended: Option<tokio::task::JoinHandle<()>>,
}

impl Loaded {
    /// `failed` is told when a thread ends before `end`.
    pub(super) fn new(
        model: ServedModel,
        threads: Vec<JoinHandle<()>>,
        taken: Taken,
        failed: watch::Sender<bool>,
    ) -> Self {
        let is_leaving = Arc::new(AtomicBool::new(false));
        let leaving = Arc::clone(&is_leaving);
        let ended = (!threads.is_empty()).then(|| tokio::spawn(watch(threads, leaving, failed)));
        Self { model: Arc::new(model), taken, is_leaving, ended }
    }

    /// Drops the engine and waits until its memory is free.
    pub(super) async fn end(self) {
        self.is_leaving.store(true, Ordering::Release);
        drop(self.model);
        if let Some(ended) = self.ended {
            let _ = ended.await;
        }
    }
}

/// Returns when all threads have ended; says so if one has that was not asked to.
async fn watch(
    threads: Vec<JoinHandle<()>>,
    is_leaving: Arc<AtomicBool>,
    failed: watch::Sender<bool>,
) {
    let wait = |thread: JoinHandle<()>| {
        tokio::task::spawn_blocking(move || {
            if thread.join().is_err() {
                tracing::error!("an engine thread panicked");
            }
        })
    };
    let mut threads: tokio::task::JoinSet<_> = threads.into_iter().map(wait).collect();
    while threads.join_next().await.is_some() {
        if !is_leaving.load(Ordering::Acquire) {
            failed.send_replace(true);
        }
    }
}

impl Slot {
    /// Somebody beside the registry holds the model.
    pub(super) fn is_busy(&self) -> bool {
        self.loaded.as_ref().is_some_and(|loaded| Arc::strong_count(&loaded.model) > 1)
    }
}

impl Entry {
    /// Loaded when it is asked for, unloaded when it is not.
    pub fn on_demand(names: Vec<String>, origin: Origin) -> Self {
        Self::new(names, origin, false)
    }

    /// Loaded at start; it stays.
    pub fn pinned(names: Vec<String>, origin: Origin) -> Self {
        Self::new(names, origin, true)
    }

    fn new(names: Vec<String>, origin: Origin, is_pinned: bool) -> Self {
        let slot = Slot {
            loaded: None,
            loading: None,
            gives_way: false,
            last_used: Instant::now(),
            keep_alive: None,
        };
        let (created, card, slot) = (unix_time(), OnceLock::new(), Mutex::new(slot));
        let max_model_len = AtomicU32::new(0);
        Self { names, origin, is_pinned, created, card, max_model_len, slot }
    }

    pub fn name(&self) -> &str {
        self.names.first().map_or("default", String::as_str)
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// `m:latest` is `m`, as clients of Ollama write it.
    pub fn is_named(&self, name: &str) -> bool {
        let plain = |name: &str| name.strip_suffix(":latest").unwrap_or(name).to_owned();
        self.names.iter().any(|own| own == name || plain(own) == plain(name))
    }

    pub(crate) fn created(&self) -> u64 {
        self.created
    }

    /// Tokens of its context, if it was planned or loaded.
    pub(crate) fn max_model_len(&self) -> Option<u32> {
        Some(self.max_model_len.load(Ordering::Relaxed)).filter(|&len| len > 0)
    }

    /// A plan says how long its context will be.
    pub fn set_max_model_len(&self, len: u32) {
        self.max_model_len.store(len, Ordering::Relaxed);
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What its files' headers say; they are read once.
    pub fn card(&self) -> anyhow::Result<Arc<Card>> {
        if let Some(card) = self.card.get() {
            return Ok(Arc::clone(card));
        }
        // The one model that is always loaded was opened before it had an entry.
        let path = match self.peek() {
            Some(model) if self.origin.path.as_os_str().is_empty() => model.source.clone(),
            _ => self.origin.path.clone(),
        };
        let mut card = Card::read(&path)?;
        card.digest = self.origin.digest.clone().unwrap_or(card.digest);
        Ok(Arc::clone(self.card.get_or_init(|| Arc::new(card))))
    }

    pub fn is_pinned(&self) -> bool {
        self.is_pinned
    }

    pub(super) fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock()
    }

    /// The model for a request, unless it is not loaded or must give way. While the request holds it, it stays.
    pub(crate) fn loaded(&self) -> Option<Arc<ServedModel>> {
        let mut slot = self.slot();
        if slot.gives_way {
            return None;
        }
        slot.last_used = Instant::now();
        slot.loaded.as_ref().map(|loaded| Arc::clone(&loaded.model))
    }

    /// The model if it is loaded, which this does not count as use.
    pub(crate) fn peek(&self) -> Option<Arc<ServedModel>> {
        self.slot().loaded.as_ref().map(|loaded| Arc::clone(&loaded.model))
    }

    pub fn is_loaded(&self) -> bool {
        self.slot().loaded.is_some()
    }

    /// What it takes now.
    pub(crate) fn taken(&self) -> Taken {
        self.slot().loaded.as_ref().map_or_else(Taken::default, |loaded| loaded.taken.clone())
    }

    pub(super) fn is_evictable(&self) -> bool {
        !self.is_pinned && self.is_loaded()
    }

    pub(super) fn install(&self, loaded: Loaded) {
        self.set_max_model_len(loaded.model.engine.info().limits.max_model_len);
        let mut slot = self.slot();
        slot.last_used = Instant::now();
        slot.loaded = Some(loaded);
    }

    /// Takes the model out unless somebody holds it. All who hold it got it under the same lock.
    pub(super) fn take_idle(&self) -> Option<Loaded> {
        let mut slot = self.slot();
        if slot.is_busy() {
            return None;
        }
        slot.loaded.take()
    }

    /// How long it shall stay after its last answer; `None`: as the server says.
    pub fn set_keep_alive(&self, keep_alive: Option<KeepAlive>) {
        self.slot().keep_alive = keep_alive;
    }

    /// When it will be unloaded if nobody uses it: in this time; `None`: never.
    pub(crate) fn time_left(&self, default: KeepAlive) -> Option<Duration> {
        let slot = self.slot();
        match slot.keep_alive.unwrap_or(default) {
            _ if self.is_pinned => None,
            KeepAlive::Forever => None,
            KeepAlive::For(time) if slot.is_busy() => Some(time),
            KeepAlive::For(time) => Some(time.saturating_sub(slot.last_used.elapsed())),
        }
    }

    /// Whether its time is over. Called often: while somebody holds the model its time begins anew.
    pub(super) fn is_due(&self, default: KeepAlive) -> bool {
        if !self.is_evictable() {
            return false;
        }
        {
            let mut slot = self.slot();
            if slot.is_busy() {
                slot.last_used = Instant::now();
            }
        }
        self.time_left(default).is_some_and(|left| left.is_zero())
    }
}
