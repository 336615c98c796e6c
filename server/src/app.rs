//! The state that every route shares, and the one table of routes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, delete, get, post};
use quire_engine::handle::EngineHealth;
use tokio::sync::{Semaphore, watch};

use crate::error::ApiError;
use crate::http::auth::{self, ApiKey};
use crate::http::body::BodiesMemory;
use crate::http::{cors, host, observe, signs};
use crate::limits::ServerLimits;
use crate::metrics::{self, Metrics};
use crate::model::ServedModel;
use crate::openapi;
use crate::pull::Library;
use crate::registry::{Entry, Origin, Registry, RegistryOptions, Taken};
use crate::retry::DrainRate;
use crate::routes::ollama::manage;
use crate::routes::{
    self, anthropic, chat_completions, completions, console, detokenize, embeddings, generate,
    health, load, models, ollama, render, rerank, responses, score, server_info, tokenize, version,
};
use crate::tenants::{KeysFile, Tenants};
use crate::traces::Exporter;

/// What every handler is given.
pub type SharedState = Arc<AppState>;

/// Models that are pulled at once.
const MAX_PULLS: usize = 4;

/// Every route: its method, path, who may call it, and its handler.
pub const ROUTES: &[Route] = &[
    Route::get("/livez", Access::Open, || get(health::livez)),
    Route::get("/startupz", Access::Open, || get(health::startupz)),
    Route::get("/readyz", Access::Open, || get(health::readyz)),
    Route::get("/health", Access::Open, || get(health::readyz)),
    Route::get("/ping", Access::Open, || get(health::readyz)),
    Route::get("/metrics", Access::Metrics, || get(routes::metrics::metrics)),
    Route::get("/version", Access::Key, || get(version::version)),
    Route::get("/openapi.json", Access::Key, || get(openapi::serve)),
    Route::get("/v1/models", Access::Key, || get(models::list)),
    Route::get("/v1/models/{id}", Access::Key, || get(models::one)),
    Route::ask("/v1/chat/completions", || post(chat_completions::chat_completions)),
    Route::ask("/v1/completions", || post(completions::completions)),
    Route::ask("/v1/embeddings", || post(embeddings::embeddings)),
    Route::ask("/v1/score", || post(score::score)),
    Route::ask("/score", || post(score::score)),
    Route::ask("/v1/rerank", || post(rerank::rerank)),
    Route::ask("/v2/rerank", || post(rerank::rerank)),
    Route::ask("/rerank", || post(rerank::rerank)),
    Route::post("/v1/completions/render", Access::Key, || post(render::completion)),
    Route::post("/v1/chat/completions/render", Access::Key, || post(render::chat)),
    Route::ask("/inference/v1/generate", || post(generate::generate)),
    Route::post("/tokenize", Access::Key, || post(tokenize::tokenize)),
    Route::post("/detokenize", Access::Key, || post(detokenize::detokenize)),
    Route::post("/v1/messages", Access::Key, || post(anthropic::messages)),
    Route::post("/v1/messages/count_tokens", Access::Key, || post(anthropic::count_tokens)),
    Route::ask("/v1/responses", || post(responses::create)),
    Route::post("/v1/responses/input_tokens", Access::Key, || post(responses::input_tokens)),
    Route::get("/v1/responses/{id}", Access::Key, || {
        get(responses::retrieve).delete(responses::delete)
    }),
    Route::get("/v1/responses/{id}/input_items", Access::Key, || get(responses::input_items)),
    Route::get("/server_info", Access::Key, || get(server_info::server_info)),
    Route::get("/get_server_info", Access::Key, || get(server_info::server_info)),
    Route::get("/model_info", Access::Key, || get(server_info::model_info)),
    Route::get("/get_model_info", Access::Key, || get(server_info::model_info)),
    Route::get("/kv_event_sources", Access::Key, || get(server_info::kv_event_sources)),
    Route::get("/load", Access::Key, || get(load::load)),
    Route::get("/v1/loads", Access::Key, || get(load::loads)),
    Route::get("/is_sleeping", Access::Key, || get(load::is_sleeping)),
    Route::post("/v1/load_lora_adapter", Access::Key, || post(load::lora)),
    Route::post("/v1/unload_lora_adapter", Access::Key, || post(load::lora)),
    Route::get("/console", Access::Page, || get(console::page)),
    Route::get("/console/{asset}", Access::Page, || get(console::asset)),
    Route::get(console::STATE_PATH, Access::Key, || get(console::state)),
    Route::get("/", Access::Open, || get(ollama::root)),
    Route::get("/api/version", Access::Key, || get(ollama::version)),
    Route::get("/api/tags", Access::Key, || get(ollama::tags)),
    Route::get("/api/ps", Access::Key, || get(ollama::ps)),
    Route::post("/api/show", Access::Key, || post(ollama::show)),
    Route::post("/api/generate", Access::Key, || post(ollama::generate)),
    Route::post("/api/chat", Access::Key, || post(ollama::chat)),
    Route::post("/api/embed", Access::Key, || post(ollama::embed)),
    Route::post("/api/embeddings", Access::Key, || post(ollama::embeddings)),
    Route::post("/api/pull", Access::Manage, || post(manage::pull)),
    Route::post("/api/create", Access::Manage, || post(manage::create)),
    Route::post("/api/copy", Access::Manage, || post(manage::copy)),
    Route::delete("/api/delete", Access::Manage, || delete(manage::delete)),
    Route::post("/api/blobs/{digest}", Access::Manage, || {
        post(manage::put_blob).head(manage::has_blob)
    }),
];

/// One line of the table.
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    /// It is for the engine, and tells of errors as OpenAI does: one who has used up what is theirs is refused unheard.
    asks: bool,
    handler: fn() -> MethodRouter<SharedState>,
}

/// Who may call a route when API keys are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone: probes carry no keys.
    Open,
    /// Everyone: a page that shows nothing before its reader gives a key.
    Page,
    /// Holders of a key; everyone with `metrics_without_key`.
    Metrics,
    /// Holders of a key.
    Key,
    /// Holders of a key for changing which models there are.
    Manage,
}

/// The flags of the front-end, as resolved.
#[derive(Clone)]
pub struct ServerConfig {
    /// The names in the API of the one model that is loaded at start, the first one shown; empty when models are loaded on
    /// demand. `default` always works too.
    pub served_model_names: Vec<String>,
    /// There is a page to chat and to watch the engine at `/console`.
    pub console: bool,
    /// Empty: no key is asked for.
    pub api_keys: Vec<ApiKey>,
    /// Keys of tenants, beside `api_keys`.
    pub keys_file: Option<KeysFile>,
    /// `/metrics` needs no key.
    pub metrics_without_key: bool,
    /// Host names answered beside loopback's own, while bound to loopback.
    pub allowed_hosts: Vec<String>,
    /// Origins that browsers may call from; `*` is any.
    pub allowed_origins: Vec<String>,
    pub limits: ServerLimits,
    /// A turn of the engine loop that takes longer counts as a hang.
    pub engine_hang_timeout: Duration,
    /// After the signal to stop: how long requests are still taken while readiness is red already.
    pub shutdown_delay: Duration,
    /// How long requests may run on then.
    pub shutdown_timeout: Duration,
    /// A comment is sent on a silent stream this often; `None`: never.
    pub sse_keep_alive_interval: Option<Duration>,
    /// Responses say how long they took.
    pub per_request_metrics: bool,
    pub registry: RegistryOptions,
    /// Keys that also open the routes that change which models there are.
    pub manage_keys: Vec<ApiKey>,
    /// Those routes need no key, because nobody else can reach them.
    pub open_management: bool,
    /// Where spans go; `None`: nowhere.
    pub traces: Option<Exporter>,
    /// Where models are kept; `None`: nothing is pulled, created or deleted.
    pub library: Option<Arc<Library>>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            served_model_names: vec!["default".into()],
            console: true,
            api_keys: Vec::new(),
            keys_file: None,
            metrics_without_key: false,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            limits: ServerLimits::default(),
            engine_hang_timeout: Duration::from_secs(120),
            shutdown_delay: Duration::ZERO,
            shutdown_timeout: Duration::from_secs(30),
            sse_keep_alive_interval: Some(Duration::from_secs(15)),
            per_request_metrics: false,
            registry: RegistryOptions::default(),
            manage_keys: Vec::new(),
            open_management: false,
            traces: None,
            library: None,
        }
    }
}

/// Built before the model is loaded, so that probes are answered from the first second.
pub struct AppState {
    pub config: ServerConfig,
    pub metrics: Metrics,
    pub models: Arc<Registry>,
    pub tenants: Tenants,
    pub(crate) responses: responses::ResponseStore,
    pub(crate) drain_rate: DrainRate,
    /// Models that may be pulled at once.
    pub(crate) pull_slots: Arc<Semaphore>,
    /// Templates and tokenizations of long prompts that may run at once.
    tokenize_slots: Arc<Semaphore>,
    /// Held by the one of them that is huge: parsed, it takes many times its bytes.
    huge_slot: Arc<Semaphore>,
    pub(crate) bodies_memory: BodiesMemory,
    /// Readiness is red.
    leaving: AtomicBool,
    draining: AtomicBool,
    began: Instant,
    /// Requests whose answers are not finished.
    in_flight: watch::Sender<usize>,
    /// `true` once answers must end unfinished.
    aborting: watch::Sender<bool>,
}

/// How the server is, for probes; of several models the worst counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Ready,
    Loading,
    Draining,
    /// The engine loop is in one turn for longer than `--engine-hang-timeout`.
    Hung,
    Stopped,
}

impl Health {
    /// Every state and its name in metrics.
    pub const NAMES: [(Self, &str); 5] = [
        (Self::Loading, "loading"),
        (Self::Ready, "ready"),
        (Self::Draining, "draining"),
        (Self::Hung, "hung"),
        (Self::Stopped, "stopped"),
    ];
}

/// The router over `ROUTES`. `check_hosts`: bound to loopback, refuse requests meant for other hosts.
pub fn router(state: SharedState, check_hosts: bool) -> Router {
    router_of(ROUTES.iter(), state, check_hosts)
}

/// The routes of `ROUTES` that tell how the server is, for a listener of their own.
pub fn probe_router(state: SharedState, check_hosts: bool) -> Router {
    router_of(
        ROUTES.iter().filter(|route| matches!(route.access, Access::Open | Access::Metrics)),
        state,
        check_hosts,
    )
}

fn router_of(
    routes: impl Iterator<Item = &'static Route>,
    state: SharedState,
    check_hosts: bool,
) -> Router {
    let mut router = Router::new();
    let has_console = state.config.console;
    for route in routes.filter(|route| has_console || !route.path.starts_with("/console")) {
        router = router.route(route.path, (route.handler)());
    }
    router = router
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "no such route"))
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this route has other methods")
        })
        .layer(from_fn_with_state(Arc::clone(&state), signs::sign))
        .layer(from_fn_with_state(Arc::clone(&state), auth::check));
    if let Some(cors) = cors::layer(&state.config.allowed_origins) {
        router = router.layer(cors);
    }
    if check_hosts {
        router = router.layer(from_fn_with_state(Arc::clone(&state), host::check));
    }
    router.layer(from_fn(observe::observe)).with_state(state)
}

/// Who may call the route with this pattern; unknown paths are not open.
pub fn access_of(pattern: Option<&str>) -> Access {
    let route = ROUTES.iter().find(|route| Some(route.path) == pattern);
    route.map_or(Access::Key, |route| route.access)
}

/// Whether what comes to the route with this pattern is for the engine.
pub(crate) fn asks(pattern: Option<&str>) -> bool {
    ROUTES.iter().any(|route| route.asks && Some(route.path) == pattern)
}

impl Route {
    const fn get(
        path: &'static str,
        access: Access,
        handler: fn() -> MethodRouter<SharedState>,
    ) -> Self {
        Self { method: Method::GET, path, access, asks: false, handler }
    }

    const fn delete(
        path: &'static str,
        access: Access,
        handler: fn() -> MethodRouter<SharedState>,
    ) -> Self {
        Self { method: Method::DELETE, path, access, asks: false, handler }
    }

    const fn post(
        path: &'static str,
        access: Access,
        handler: fn() -> MethodRouter<SharedState>,
    ) -> Self {
        Self { method: Method::POST, path, access, asks: false, handler }
    }

    const fn ask(path: &'static str, handler: fn() -> MethodRouter<SharedState>) -> Self {
        Self { method: Method::POST, path, access: Access::Key, asks: true, handler }
    }
}

impl ServerConfig {
    /// Whether clients need a key.
    pub fn has_keys(&self) -> bool {
        !self.api_keys.is_empty() || self.keys_file.is_some()
    }
}

impl AppState {
    pub fn new(config: ServerConfig, metrics: Metrics) -> SharedState {
        let num_jobs = config.limits.max_tokenize_jobs.clamp(1, Semaphore::MAX_PERMITS);
        let tokenize_slots = Arc::new(Semaphore::new(num_jobs));
        let bodies_memory = BodiesMemory::new(&config.limits);
        let responses = responses::ResponseStore::new(config.limits.response_store_bytes);
        let models = Registry::new(config.registry.clone());
        if !config.served_model_names.is_empty() {
            let names = config.served_model_names.clone();
            models.add(Entry::pinned(names, Origin::default())).expect("it is the first one");
        }
        let tenants = Tenants::new(config.keys_file.clone());
        Arc::new(Self {
            config,
            metrics,
            models,
            tenants,
            responses,
            drain_rate: DrainRate::default(),
            pull_slots: Arc::new(Semaphore::new(MAX_PULLS)),
            tokenize_slots,
            huge_slot: Arc::new(Semaphore::new(1)),
            bodies_memory,
            leaving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            began: Instant::now(),
            in_flight: watch::Sender::new(0),
            aborting: watch::Sender::new(false),
        })
    }

    /// The model of `served_model_names` is loaded: requests are taken from now on. Only the first call counts.
    pub fn set_model(&self, model: ServedModel) {
        self.set_running_model(model, Vec::new(), Taken::default());
    }

    /// As `set_model`; when one of the engine's `threads` ends, the registry says so.
    pub fn set_running_model(
        &self,
        model: ServedModel,
        threads: Vec<JoinHandle<()>>,
        taken: Taken,
    ) {
        let pinned = self.models.entries().into_iter().find(|entry| entry.is_pinned());
        if let Some(entry) = pinned.filter(|entry| !entry.is_loaded()) {
            self.models.install(&entry, model, threads, taken);
        } else {
            tracing::warn!("a model is served already");
        }
        metrics::record_model_load(self.began.elapsed());
    }

    /// The default model, or else one that is loaded; the 503 to answer with when none is.
    pub(crate) fn model(&self) -> Result<Arc<ServedModel>, ApiError> {
        let any = || self.models.all_loaded().into_iter().next();
        self.models.loaded(None).or_else(|error| any().ok_or(error))
    }

    pub fn health(&self) -> Health {
        let hang = self.config.engine_hang_timeout;
        let worst = self.models.all_loaded().iter().map(|model| health_of(model, hang)).max();
        match worst {
            Some(health @ (Health::Hung | Health::Stopped)) => health,
            _ if self.is_leaving() => Health::Draining,
            _ if !self.models.is_started() => Health::Loading,
            worst => worst.unwrap_or(Health::Ready),
        }
    }

    /// Readiness goes red; requests are still taken, until routers have seen it.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Readiness goes red, new requests are refused, those taken run on.
    pub fn drain(&self) {
        self.leave();
        self.draining.store(true, Ordering::Release);
        self.models.drain();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Since the server was started.
    pub(crate) fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// Records how the server is, for a scrape.
    pub(crate) fn record(&self) {
        let turns = self.models.all_loaded().into_iter().map(|model| match model.engine.health() {
            EngineHealth::Alive { turn } | EngineHealth::Draining { turn } => turn,
            EngineHealth::Stopped => Duration::ZERO,
        });
        let longest = turns.max().unwrap_or(Duration::ZERO);
        metrics::record_state(self.health(), longest, *self.in_flight.borrow());
    }

    /// Returns once every answer is finished.
    pub async fn idle(&self) {
        let mut in_flight = self.in_flight.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let _ = in_flight.wait_for(|&count| count == 0).await;
    }

    /// Runs `work` on `num_bytes` of what a client sent: at once when they are few, else on the blocking pool, at most
    /// `max_tokenize_jobs` together, so that templates and tokenization never hold up the async threads; of huge ones one.
    pub(crate) async fn prepare<T: Send + 'static>(
        &self,
        num_bytes: usize,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        // Below this the way to another thread costs more than the work.
        const SHORT: usize = 4 << 10;
        const HUGE: usize = 1 << 20;
        if num_bytes < SHORT {
            return work();
        }
        let huge = match num_bytes < HUGE {
            true => None,
            false => Some(Arc::clone(&self.huge_slot).acquire_owned().await),
        };
        let slot = Arc::clone(&self.tokenize_slots).acquire_owned().await;
        let job = tokio::task::spawn_blocking(move || {
            // Held to the end of the work, also when the client has gone meanwhile.
            let _slots = (huge, slot);
            work()
        });
        job.await.map_err(|_| ApiError::internal("reading the request failed"))?
    }

    /// Ends the answers still running, with finish reason `abort`.
    pub fn abort(&self) {
        self.aborting.send_replace(true);
    }

    pub(crate) fn aborting(&self) -> watch::Receiver<bool> {
        self.aborting.subscribe()
    }

    /// Seconds until a queue that is full now has moved.
    pub(crate) fn retry_after(&self, model: &ServedModel) -> u64 {
        self.drain_rate.seconds_for(model.engine.num_waiting())
    }
}

fn health_of(model: &ServedModel, hang: Duration) -> Health {
    match model.engine.health() {
        EngineHealth::Stopped => Health::Stopped,
        EngineHealth::Alive { turn } | EngineHealth::Draining { turn } if turn > hang => {
            Health::Hung
        }
        EngineHealth::Draining { .. } => Health::Draining,
        EngineHealth::Alive { .. } => Health::Ready,
    }
}

/// Counts one request as running while it lives.
pub(crate) struct InFlight(SharedState);

impl InFlight {
    pub(crate) fn new(state: SharedState) -> Self {
        state.in_flight.send_modify(|count| *count += 1);
        Self(state)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.send_modify(|count| *count -= 1);
    }
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
