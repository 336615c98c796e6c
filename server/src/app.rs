//! The state that every route shares, and the one table of routes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::{Method, StatusCode};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodRouter, get, post};
use quire_engine::handle::EngineHealth;
use tokio::sync::{Semaphore, watch};

use crate::error::ApiError;
use crate::http::auth::{self, ApiKey};
use crate::http::{cors, host, observe, signs};
use crate::limits::ServerLimits;
use crate::metrics::{self, Metrics};
use crate::model::ServedModel;
use crate::retry::DrainRate;
use crate::routes::{
    self, chat_completions, completions, detokenize, embeddings, health, models, tokenize, version,
};

/// What every handler is given.
pub type SharedState = Arc<AppState>;

/// Every route: its method, path, who may call it, and its handler.
pub const ROUTES: &[Route] = &[
    Route::get("/livez", Access::Open, || get(health::livez)),
    Route::get("/startupz", Access::Open, || get(health::startupz)),
    Route::get("/readyz", Access::Open, || get(health::readyz)),
    Route::get("/health", Access::Open, || get(health::readyz)),
    Route::get("/ping", Access::Open, || get(health::readyz)),
    Route::get("/metrics", Access::Metrics, || get(routes::metrics::metrics)),
    Route::get("/version", Access::Key, || get(version::version)),
    Route::get("/v1/models", Access::Key, || get(models::list)),
    Route::get("/v1/models/{id}", Access::Key, || get(models::one)),
    Route::post("/v1/chat/completions", Access::Key, || post(chat_completions::chat_completions)),
    Route::post("/v1/completions", Access::Key, || post(completions::completions)),
    Route::post("/v1/embeddings", Access::Key, || post(embeddings::embeddings)),
    Route::post("/tokenize", Access::Key, || post(tokenize::tokenize)),
    Route::post("/detokenize", Access::Key, || post(detokenize::detokenize)),
];

/// One line of the table.
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    handler: fn() -> MethodRouter<SharedState>,
}

/// Who may call a route when API keys are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone: probes carry no keys.
    Open,
    /// Holders of a key; everyone with `metrics_without_key`.
    Metrics,
    /// Holders of a key.
    Key,
}

/// The flags of the front-end, as resolved.
#[derive(Clone)]
pub struct ServerConfig {
    /// The model's names in the API, the first one shown; `default` always works too.
    pub served_model_names: Vec<String>,
    /// Empty: no key is asked for.
    pub api_keys: Vec<ApiKey>,
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
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            served_model_names: vec!["default".into()],
            api_keys: Vec::new(),
            metrics_without_key: false,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            limits: ServerLimits::default(),
            engine_hang_timeout: Duration::from_secs(120),
            shutdown_delay: Duration::ZERO,
            shutdown_timeout: Duration::from_secs(30),
            sse_keep_alive_interval: Some(Duration::from_secs(15)),
        }
    }
}

/// Built before the model is loaded, so that probes are answered from the first second.
pub struct AppState {
    pub config: ServerConfig,
    pub metrics: Metrics,
    pub(crate) drain_rate: DrainRate,
    /// Templates and tokenizations of long prompts that may run at once.
    tokenize_slots: Arc<Semaphore>,
    model: OnceLock<Arc<ServedModel>>,
    /// Readiness is red.
    leaving: AtomicBool,
    draining: AtomicBool,
    began: Instant,
    /// Requests whose answers are not finished.
    in_flight: watch::Sender<usize>,
    /// `true` once answers must end unfinished.
    aborting: watch::Sender<bool>,
}

/// How the server is, for probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Loading,
    Ready,
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
    router_of(ROUTES.iter().filter(|route| route.access != Access::Key), state, check_hosts)
}

fn router_of(
    routes: impl Iterator<Item = &'static Route>,
    state: SharedState,
    check_hosts: bool,
) -> Router {
    let mut router = Router::new();
    for route in routes {
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

impl Route {
    const fn get(
        path: &'static str,
        access: Access,
        handler: fn() -> MethodRouter<SharedState>,
    ) -> Self {
        Self { method: Method::GET, path, access, handler }
    }

    const fn post(
        path: &'static str,
        access: Access,
        handler: fn() -> MethodRouter<SharedState>,
    ) -> Self {
        Self { method: Method::POST, path, access, handler }
    }
}

impl AppState {
    pub fn new(config: ServerConfig, metrics: Metrics) -> SharedState {
        let num_jobs = config.limits.max_tokenize_jobs.clamp(1, Semaphore::MAX_PERMITS);
        let tokenize_slots = Arc::new(Semaphore::new(num_jobs));
        Arc::new(Self {
            config,
            metrics,
            drain_rate: DrainRate::default(),
            tokenize_slots,
            model: OnceLock::new(),
            leaving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            began: Instant::now(),
            in_flight: watch::Sender::new(0),
            aborting: watch::Sender::new(false),
        })
    }

    /// The model is loaded: requests are taken from now on. Only the first call counts.
    pub fn set_model(&self, model: ServedModel) {
        let engine = &model.engine;
        self.metrics.describe_engines(self.model_name(), engine.num_replicas(), engine.info());
        if self.is_draining() {
            model.engine.drain();
        }
        if self.model.set(Arc::new(model)).is_err() {
            tracing::warn!("a model is served already");
        }
        metrics::record_model_load(self.began.elapsed());
    }

    /// The loaded model, or the 503 to answer with.
    pub fn model(&self) -> Result<&Arc<ServedModel>, ApiError> {
        self.model.get().ok_or_else(ApiError::loading)
    }

    /// The first name of the model: what answers and metrics call it.
    pub fn model_name(&self) -> &str {
        self.config.served_model_names.first().map_or("default", String::as_str)
    }

    /// The model a request asked for; no name and `default` are the first one.
    pub fn resolve_model(&self, name: Option<&str>) -> Result<&Arc<ServedModel>, ApiError> {
        let is_served = |name| self.config.served_model_names.iter().any(|own| own == name);
        match name {
            Some(name) if name != "default" && !is_served(name) => {
                Err(ApiError::model_not_found(name))
            }
            _ => self.model(),
        }
    }

    pub fn health(&self) -> Health {
        let Some(model) = self.model.get() else {
            return if self.is_leaving() { Health::Draining } else { Health::Loading };
        };
        let hang = self.config.engine_hang_timeout;
        match model.engine.health() {
            EngineHealth::Stopped => Health::Stopped,
            EngineHealth::Alive { turn } | EngineHealth::Draining { turn } if turn > hang => {
                Health::Hung
            }
            EngineHealth::Draining { .. } => Health::Draining,
            EngineHealth::Alive { .. } if self.is_leaving() => Health::Draining,
            EngineHealth::Alive { .. } => Health::Ready,
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
        if let Some(model) = self.model.get() {
            model.engine.drain();
        }
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Records how the server is, for a scrape.
    pub(crate) fn record(&self) {
        let turn = self.model.get().map(|model| model.engine.health());
        let turn = match turn {
            Some(EngineHealth::Alive { turn } | EngineHealth::Draining { turn }) => turn,
            Some(EngineHealth::Stopped) | None => Duration::ZERO,
        };
        metrics::record_state(self.health(), turn, *self.in_flight.borrow());
    }

    /// Returns once every answer is finished.
    pub async fn idle(&self) {
        let mut in_flight = self.in_flight.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let _ = in_flight.wait_for(|&count| count == 0).await;
    }

    /// Runs `work` on `num_bytes` of what a client sent: at once when they are few, else on the blocking pool, at most
    /// `max_tokenize_jobs` together, so that templates and tokenization never hold up the async threads.
    pub(crate) async fn prepare<T: Send + 'static>(
        &self,
        num_bytes: usize,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        // Below this the way to another thread costs more than the work.
        const SHORT: usize = 4 << 10;
        if num_bytes < SHORT {
            return work();
        }
        let slot = Arc::clone(&self.tokenize_slots).acquire_owned().await;
        let job = tokio::task::spawn_blocking(move || {
            // Held to the end of the work, also when the client has gone meanwhile.
            let _slot = slot;
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
