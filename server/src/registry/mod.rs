//! The models of this server: which are loaded, how one that is asked for gets in, and which gives way to it.

mod card;
mod entry;
mod keep_alive;
mod load;
mod settings;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::RwLock;
use quire_engine::plan::human_bytes;
use quire_engine::{MemoryPlan, ModelFiles};
use tokio::sync::{Mutex as AsyncMutex, watch};

pub(crate) use card::hex;
pub use card::{Card, main_type};
pub use entry::{Entry, Origin, Taken};
pub use keep_alive::{KeepAlive, NotATime};
pub use load::{Loader, ParserNames, load};
pub use settings::ModelSettings;

use crate::error::{ApiError, shortened};
use crate::metrics;
use crate::model::ServedModel;
use crate::tenants::caller;
use entry::Loaded;

/// How often a model that must give way is looked at until its last answer is finished.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How often models are looked for that nobody has used for long.
const REAP_INTERVAL: Duration = Duration::from_millis(100);

/// So many models at most divide the memory into equal shares.
const MAX_SHARES: usize = 4;

/// The memory is planned in so many equal parts.
pub fn num_shares(num_models: usize) -> u64 {
    num_models.clamp(1, MAX_SHARES) as u64
}

/// A load under way, that all requests for its model wait for.
type Loading = Shared<BoxFuture<'static, Result<(), ApiError>>>;

/// How models come and go.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// How long a model stays that nobody uses.
    pub keep_alive: KeepAlive,
    /// How long a request waits for its model.
    pub load_timeout: Duration,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            keep_alive: KeepAlive::For(Duration::from_secs(300)),
            load_timeout: Duration::from_secs(300),
        }
    }
}

/// Every model that may be asked for. One of them may be pinned: loaded at start, never unloaded.
pub struct Registry {
    options: RegistryOptions,
    /// In the order given; the first one is the default.
    entries: RwLock<Vec<Arc<Entry>>>,
    loader: OnceLock<Loader>,
    /// Held by the one load that is under way, with the unloading that it needs.
    turn: AsyncMutex<()>,
    draining: AtomicBool,
    /// `true` once an engine has ended that nobody asked to.
    failed: watch::Sender<bool>,
}

impl Registry {
    pub(crate) fn new(options: RegistryOptions) -> Arc<Self> {
        Arc::new(Self {
            options,
            entries: RwLock::default(),
            loader: OnceLock::new(),
            turn: AsyncMutex::default(),
            draining: AtomicBool::new(false),
            failed: watch::Sender::new(false),
        })
    }

    /// How models that are not pinned are loaded. Only the first call counts.
    pub fn set_loader(&self, loader: Loader) {
        if self.loader.set(loader).is_err() {
            tracing::warn!("the registry has a loader already");
        }
    }

    /// Adds a model. The error names one that has a name of it already.
    pub fn add(&self, entry: Entry) -> anyhow::Result<()> {
        let mut entries = self.entries.write();
        let taken = entry.names().iter().find(|name| entries.iter().any(|own| own.is_named(name)));
        if let Some(name) = taken {
            anyhow::bail!("two models have the name '{name}': rename one's file");
        }
        metrics::model_loaded(entry.name()).set(0.0);
        entries.push(Arc::new(entry));
        Ok(())
    }

    /// Models in the order given.
    pub fn entries(&self) -> Vec<Arc<Entry>> {
        self.entries.read().clone()
    }

    /// What models are called, the first name of each.
    pub fn names(&self) -> Vec<String> {
        self.entries.read().iter().map(|entry| entry.name().to_owned()).collect()
    }

    /// The model of that name; no name and `default` are the first one.
    pub fn find(&self, name: Option<&str>) -> Result<Arc<Entry>, ApiError> {
        let entries = self.entries.read();
        let found = match name {
            None | Some("default") => entries.first(),
            Some(name) => entries.iter().find(|entry| entry.is_named(name)),
        };
        found.cloned().ok_or_else(|| match name {
            Some(name) => ApiError::model_not_found(name),
            None => ApiError::loading(),
        })
    }

    /// Whether all there is, is one model that is always loaded.
    pub(crate) fn is_single(&self) -> bool {
        let entries = self.entries.read();
        entries.len() == 1 && entries[0].is_pinned()
    }

    /// The model of that name, if it is loaded.
    pub(crate) fn loaded(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        self.find(name)?.loaded().ok_or_else(ApiError::loading)
    }

    /// Those loaded now.
    pub(crate) fn all_loaded(&self) -> Vec<Arc<ServedModel>> {
        self.entries.read().iter().filter_map(|entry| entry.peek()).collect()
    }

    /// Of the pinned models each is loaded.
    pub(crate) fn is_started(&self) -> bool {
        let entries = self.entries.read();
        !entries.is_empty() && entries.iter().all(|entry| !entry.is_pinned() || entry.is_loaded())
    }

    /// The model of that name, loaded if need be. While it is held, it stays.
    pub(crate) async fn get(
        self: &Arc<Self>,
        name: Option<&str>,
    ) -> Result<Arc<ServedModel>, ApiError> {
        let entry = self.find(name)?;
        self.get_entry(&entry).await
    }

    /// As `get`, of an entry that was found.
    pub(crate) async fn get_entry(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
    ) -> Result<Arc<ServedModel>, ApiError> {
        caller::check_model(entry.names())?;
        if let Some(model) = entry.loaded() {
            return Ok(model);
        }
        if entry.is_pinned() {
            return Err(ApiError::loading());
        }
        let timeout = self.options.load_timeout;
        let waiting = async {
            loop {
                self.loading(entry).await?;
                // Another model may have been faster to take its place.
                if let Some(model) = entry.loaded() {
                    return Ok(model);
                }
            }
        };
        tokio::time::timeout(timeout, waiting).await.unwrap_or_else(|_| {
            let message = format!(
                "{} was not loaded within {}s (--model-load-timeout)",
                shortened(entry.name()),
                timeout.as_secs()
            );
            Err(ApiError::unavailable(message, 5))
        })
    }

    /// The load of `entry` that is under way, or a new one. It goes on when all who wait have gone.
    fn loading(self: &Arc<Self>, entry: &Arc<Entry>) -> Loading {
        let mut slot = entry.slot();
        if let Some(loading) = &slot.loading {
            return loading.clone();
        }
        let (registry, own) = (Arc::clone(self), Arc::clone(entry));
        let task = tokio::spawn(async move {
            let outcome = registry.bring_in(&own).await;
            own.slot().loading = None;
            outcome
        });
        let joined =
            async { task.await.unwrap_or_else(|_| Err(failed_to_load("loading panicked"))) };
        let loading = joined.boxed().shared();
        slot.loading = Some(loading.clone());
        loading
    }

    /// Makes room, then loads.
    async fn bring_in(self: &Arc<Self>, entry: &Arc<Entry>) -> Result<(), ApiError> {
        let began = Instant::now();
        let _turn = self.turn.lock().await;
        entry.slot().gives_way = false;
        if entry.is_loaded() {
            return Ok(());
        }
        if self.draining.load(Ordering::Acquire) {
            return Err(ApiError::unavailable("the server is shutting down", 1));
        }
        let (files, plan) = self.make_room(entry, began + self.options.load_timeout).await?;
        let loader = self.loader()?.clone();
        let (started, origin) = (Instant::now(), entry.origin().clone());
        let taken = Taken::of(&plan);
        let loaded = tokio::task::spawn_blocking(move || loader.load(&files, &plan, &origin));
        let loaded = loaded.await.map_err(|_| failed_to_load("loading panicked"))?;
        let (model, threads) = loaded.map_err(|error| failed_to_load(&format!("{error:#}")))?;
        tracing::info!(model = entry.name(), ms = started.elapsed().as_millis() as u64, "loaded");
        metrics::model_load_seconds(entry.name()).record(started.elapsed().as_secs_f64());
        self.install(entry, model, threads, taken);
        Ok(())
    }

    /// From now on requests for `entry` are answered by `model`.
    pub(crate) fn install(
        &self,
        entry: &Arc<Entry>,
        mut model: ServedModel,
        threads: Vec<std::thread::JoinHandle<()>>,
        taken: Taken,
    ) {
        entry.name().clone_into(&mut model.name);
        if self.draining.load(Ordering::Acquire) {
            model.engine.drain();
        }
        let engine = &model.engine;
        metrics::describe_engines(&model.name, engine.num_replicas(), engine.info());
        metrics::model_loaded(entry.name()).set(1.0);
        let loaded = Loaded::new(model, threads, taken, self.failed.clone());
        entry.install(loaded);
    }

    fn loader(&self) -> Result<&Loader, ApiError> {
        self.loader.get().ok_or_else(ApiError::loading)
    }

    /// The opened files of `entry` and a plan that fits beside what is loaded then.
    async fn make_room(
        &self,
        entry: &Arc<Entry>,
        deadline: Instant,
    ) -> Result<(ModelFiles, MemoryPlan), ApiError> {
        let loader = self.loader()?.clone();
        let num_shares = num_shares(self.entries.read().len());
        let mut known = None;
        loop {
            let (own, task, name) = (known.take(), loader.clone(), entry.name().to_owned());
            let origin = entry.origin().clone();
            let planned = tokio::task::spawn_blocking(move || {
                let files = own.map_or_else(|| ModelFiles::open(&origin.path), Ok)?;
                let plan = task.plan(&files, &name, num_shares);
                anyhow::Ok((files, plan))
            });
            let planned = planned.await.map_err(|_| failed_to_load("reading it panicked"))?;
            let (files, plan) = planned.map_err(|error| failed_to_load(&format!("{error:#}")))?;
            match plan {
                Ok(plan) if self.fits(&loader, &plan, entry)? => return Ok((files, plan)),
                // What is free on a GPU, the plan asks the GPU.
                Err(error) if !self.has_evictable_on_gpu() => {
                    return Err(failed_to_load(&format!("{error:#}")));
                }
                Ok(_) | Err(_) => self.evict_one(entry, deadline).await?,
            }
            known = Some(files);
        }
    }

    /// Whether there is room beside what is loaded; an error where there never can be.
    fn fits(
        &self,
        loader: &Loader,
        plan: &MemoryPlan,
        entry: &Arc<Entry>,
    ) -> Result<bool, ApiError> {
        if plan.place.gpu().is_some() {
            return Ok(true);
        }
        let entries = self.entries();
        let of = |pinned_only: bool| -> u64 {
            let counted = entries.iter().filter(|own| own.is_pinned() || !pinned_only);
            counted.map(|own| own.taken().num_bytes).sum()
        };
        let need = plan.total_bytes();
        if of(true).saturating_add(need) > loader.memory {
            let message = format!(
                "{} needs {} and {} of {} are free beside models that stay: raise --models-memory or \
                 lower --kv-cache-memory",
                shortened(entry.name()),
                human_bytes(need),
                human_bytes(loader.memory.saturating_sub(of(true))),
                human_bytes(loader.memory)
            );
            return Err(failed_to_load(&message));
        }
        Ok(of(false).saturating_add(need) <= loader.memory)
    }

    fn has_evictable_on_gpu(&self) -> bool {
        self.entries.read().iter().any(|entry| entry.is_evictable() && entry.taken().is_on_gpu)
    }

    /// Unloads the model that was used least recently, idle ones first; waits until its answers are finished.
    async fn evict_one(&self, besides: &Arc<Entry>, deadline: Instant) -> Result<(), ApiError> {
        let entries = self.entries();
        let others = entries.iter().filter(|entry| !Arc::ptr_eq(entry, besides));
        let oldest = others.filter(|entry| entry.is_evictable()).min_by_key(|entry| {
            let slot = entry.slot();
            (slot.is_busy(), slot.last_used)
        });
        let Some(oldest) = oldest else {
            return Err(failed_to_load("no loaded model can give way to it"));
        };
        if self.unload_until(oldest, deadline).await {
            return Ok(());
        }
        let message = "other models are busy and did not give way (--model-load-timeout)";
        Err(ApiError::unavailable(message, 5))
    }

    /// Unloads `entry` once nobody holds it; meanwhile nobody new gets it. `false`: after `deadline` it is still held.
    async fn unload_until(&self, entry: &Arc<Entry>, deadline: Instant) -> bool {
        entry.slot().gives_way = true;
        while entry.is_loaded() && !self.unload_if_idle(entry).await {
            if Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        entry.slot().gives_way = false;
        !entry.is_loaded()
    }

    /// Unloads `entry` unless a request holds it. `true`: it is unloaded, its memory free.
    async fn unload_if_idle(&self, entry: &Arc<Entry>) -> bool {
        let Some(loaded) = entry.take_idle() else { return false };
        metrics::model_loaded(entry.name()).set(0.0);
        loaded.end().await;
        tracing::info!(model = entry.name(), "unloaded");
        true
    }

    /// Unloads `entry` once its running answers are finished, within the time that a load may take. `false`: it stays.
    pub async fn unload(&self, entry: &Arc<Entry>) -> bool {
        if entry.is_pinned() {
            return false;
        }
        let deadline = Instant::now() + self.options.load_timeout;
        let _turn = self.turn.lock().await;
        self.unload_until(entry, deadline).await
    }

    /// Takes `entry` out: it is not found any more. Unloads it once its running answers are finished.
    pub async fn remove(&self, entry: &Arc<Entry>) {
        self.entries.write().retain(|own| !Arc::ptr_eq(own, entry));
        self.unload(entry).await;
    }

    /// How long models stay where neither a request nor the model says.
    pub fn keep_alive(&self) -> KeepAlive {
        self.options.keep_alive
    }

    /// Unloads what nobody has used for long, for as long as the registry lives.
    pub fn reap(self: &Arc<Self>) -> tokio::task::JoinHandle<()> {
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(REAP_INTERVAL);
            loop {
                ticks.tick().await;
                let Some(registry) = Weak::upgrade(&weak) else { return };
                // While a model loads, it unloads what it must.
                let Ok(_turn) = registry.turn.try_lock() else { continue };
                for entry in registry.entries() {
                    if entry.is_due(registry.options.keep_alive) {
                        registry.unload_if_idle(&entry).await;
                    }
                }
            }
        })
    }

    /// Refuses new requests from now on; those taken are finished.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.all_loaded().iter().for_each(|model| model.engine.drain());
    }

    /// Returns once an engine has ended that nobody asked to.
    pub async fn failure(&self) {
        // The sender lives in self, so waiting cannot fail.
        let _ = self.failed.subscribe().wait_for(|&failed| failed).await;
    }

    /// Ends every engine that no request holds, and waits for it.
    pub async fn close(&self) {
        for entry in self.entries() {
            self.unload_if_idle(&entry).await;
        }
    }
}

/// A model that cannot be loaded, as the answer to a request for it.
fn failed_to_load(message: &str) -> ApiError {
    let message = format!("the model cannot be loaded: {message}");
    ApiError::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, message)
}
