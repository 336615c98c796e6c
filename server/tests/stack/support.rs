//! A server of tiny models, and ways to talk to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use quire_engine::config::DeviceChoice;
use quire_engine::{EngineOptions, Machine, ModelFiles};
use quire_server::app::{self, AppState, ServerConfig, SharedState};
use quire_server::metrics::Metrics;
use quire_server::registry::{
    Entry, KeepAlive, Loader, Origin, ParserNames, RegistryOptions, Taken, load,
};
use quire_server::text::TemplateOptions;
use serde_json::Value;
use tower::ServiceExt;

/// The router with its state.
pub(crate) struct TestServer {
    pub state: SharedState,
    pub router: Router,
}

/// What a request was answered.
pub(crate) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

/// A tiny model's file.
pub(crate) fn model_file(name: &str) -> PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/conformance");
    PathBuf::from(format!("{root}/{name}.gguf"))
}

pub(crate) fn loader(memory: u64) -> Loader {
    let engine = EngineOptions {
        device: DeviceChoice::Cpu,
        threads: Some(1),
        max_num_seqs: Some(4),
        max_model_len: Some(256),
        kv_cache_memory: Some(1 << 20),
        ..EngineOptions::default()
    };
    let (template, parsers) = (TemplateOptions::default(), ParserNames::default());
    let machine = Machine::detect();
    Loader { engine, template, parsers, machine, memory, kv_events: None }
}

/// Bytes that the model takes when it is loaded.
pub(crate) fn size_of(name: &str) -> u64 {
    let files = ModelFiles::open(&model_file(name)).unwrap();
    loader(1 << 30).plan(&files, name, 1).unwrap().total_bytes()
}

/// No model goes by itself.
pub(crate) fn config() -> ServerConfig {
    ServerConfig {
        served_model_names: Vec::new(),
        registry: RegistryOptions {
            keep_alive: KeepAlive::Forever,
            load_timeout: Duration::from_secs(60),
        },
        ..ServerConfig::default()
    }
}

impl TestServer {
    /// Models by their names, loaded on demand.
    pub(crate) fn with(names: &[&str], memory: u64, config: ServerConfig) -> Self {
        let server = Self::empty(memory, config);
        for name in names {
            let origin = Origin { path: model_file(name), ..Origin::default() };
            server.state.models.add(Entry::on_demand(vec![(*name).into()], origin)).unwrap();
        }
        server
    }

    pub(crate) fn empty(memory: u64, config: ServerConfig) -> Self {
        let state = AppState::new(config, Metrics::install());
        state.models.set_loader(loader(memory));
        let router = app::router(Arc::clone(&state), false);
        Self { state, router }
    }

    /// Loads the model that stays, of the first name in the configuration.
    pub(crate) fn load_pinned(&self, file: &str) {
        let files = ModelFiles::open(&model_file(file)).unwrap();
        let loader = loader(1 << 30);
        let plan = loader.plan(&files, "pinned", 1).unwrap();
        let (model, threads) = load(&files, &plan, &loader.template, &loader.parsers).unwrap();
        self.state.set_running_model(model, threads, Taken::of(&plan));
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(json_request(Method::POST, path, body)).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8(bytes.into()).unwrap();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    /// The body of a response whose head has come.
    pub(crate) async fn start(&self, path: &str, body: &Value) -> Body {
        let request = json_request(Method::POST, path, body);
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body()
    }

    /// The models in memory.
    pub(crate) fn loaded(&self) -> Vec<String> {
        let entries = self.state.models.entries().into_iter();
        entries.filter(|entry| entry.is_loaded()).map(|entry| entry.name().to_owned()).collect()
    }
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The body of a good answer.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.json()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) fn json_request(method: Method, path: &str, body: &Value) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header(header::CONTENT_TYPE, "application/json");
    request.body(Body::from(body.to_string())).unwrap()
}

pub(crate) async fn wait_until(condition: impl Fn() -> bool) {
    for _ in 0..4000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the state did not come");
}
