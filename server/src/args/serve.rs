//! The flags of `quire serve`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args as ClapArgs;
use quire_engine::EngineOptions;
use quire_server::app::ServerConfig;
use quire_server::http::auth::ApiKey;
use quire_server::http::tls::Tls;
use quire_server::kv_events::KvEventsConfig;
use quire_server::registry::{KeepAlive, ParserNames, RegistryOptions};
use quire_server::tenants::KeysFile;
use quire_server::text::TemplateOptions;

use super::limits::LimitArgs;
use super::template::TemplateArgs;
use super::{EngineArgs, Environment, LoadFormat, units};

#[derive(Debug, ClapArgs)]
#[command(allow_negative_numbers = true)]
pub(crate) struct ServeArgs {
    /// GGUF files, directories with safetensors, or names in the models folder; one is loaded now and stays, several are
    /// loaded when they are asked for, as are all that a folder of models has [default: the default model]
    #[arg(value_name = "MODEL")]
    models: Vec<String>,

    #[command(flatten)]
    network: NetworkArgs,

    #[command(flatten)]
    several: SeveralArgs,

    #[command(flatten)]
    engine: EngineArgs,

    #[command(flatten)]
    template: TemplateArgs,

    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Several models")]
struct SeveralArgs {
    /// Memory for all loaded models together; one that does not fit makes the least recently used give way
    /// [default: what is free at start]
    #[arg(long, value_parser = units::bytes, value_name = "BYTES")]
    models_memory: Option<u64>,

    /// How long a model stays loaded after its last answer: 5m, 0 (not at all) or -1 (for ever); a request may say otherwise
    #[arg(long, default_value = "5m", allow_hyphen_values = true, value_name = "TIME")]
    keep_alive: KeepAlive,

    /// How long a request waits for its model to be loaded
    #[arg(long, default_value = "5m", value_parser = units::seconds, value_name = "TIME")]
    model_load_timeout: Duration,
}

#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Network")]
struct NetworkArgs {
    /// Address to listen on; 0.0.0.0 is every network this machine is in
    #[arg(long, default_value = "127.0.0.1")]
    host: String,

    /// Port to listen on; 0 takes a free one and prints it
    #[arg(long, default_value_t = 8000)]
    port: u16,

    /// A port of its own for /health, /metrics and their like, served even under full load
    #[arg(long, value_name = "PORT")]
    health_port: Option<u16>,

    /// Serve gRPC too, on this port: quire.v1.Inference, vLLM's services, health and reflection; 0 takes a free one
    #[arg(long, value_name = "PORT")]
    grpc_port: Option<u16>,

    /// The certificate of gRPC in PEM, and those that vouch for it: with it gRPC is TLS alone. It and the
    /// key are read again when they change and on SIGHUP
    #[arg(long, requires_all = ["tls_key", "grpc_port"], value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The key of --tls-cert in PEM
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Publish what enters and leaves the prefix cache over ZeroMQ, as vLLM does: its JSON, such as
    /// {"enable_kv_cache_events": true, "endpoint": "tcp://*:5557"}
    #[arg(long, value_parser = KvEventsConfig::parse, value_name = "JSON")]
    kv_events_config: Option<KvEventsConfig>,

    /// Threads that read requests and write answers; computing threads are --threads
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "COUNT")]
    http_threads: u16,

    /// Names of the one model in the API; `default` always works too [default: the file's name]
    #[arg(long, num_args = 1.., value_name = "NAME")]
    served_model_name: Vec<String>,

    /// A key that clients must send as `Authorization: Bearer KEY`; repeat for more [env: QUIRE_API_KEY]
    #[arg(long, value_name = "KEY")]
    api_key: Vec<String>,

    /// A file with such keys, one a line; lines that begin with # are notes
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// A JSON file of tenants: the SHA-256 of their keys, weights, priority classes and limits (deploy/README.md); read again when
    /// it changes and on SIGHUP
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,

    /// A key for what --api-key opens and for changing which models there are (/api/pull, create, copy, delete, blobs); without
    /// one those routes are open only where no key is set and nobody but this machine can reach the server [env: QUIRE_MANAGE_KEY]
    #[arg(long, value_name = "KEY")]
    manage_key: Vec<String>,

    /// Registries beside Ollama's that /api/pull may ask, as registry.example or registry.example:5000
    #[arg(long, value_delimiter = ',', value_name = "HOST")]
    allowed_registries: Vec<String>,

    /// With /api/pull: ranges of a big file to ask for at once; 1: one stream. Each holds 16 MiB of memory at most
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pull_streams: u8,

    /// Send a trace of each request to this OpenTelemetry collector, by OTLP over HTTP, as http://HOST:4318
    #[arg(long, value_name = "URL")]
    otlp_traces_endpoint: Option<String>,

    /// Give out /metrics without a key
    #[arg(long)]
    metrics_without_key: bool,

    /// Serve no console, the page at /console to chat and to watch the engine
    #[arg(long)]
    no_console: bool,

    /// Web pages (as `https://example.org`) whose scripts may call this server; * is any
    #[arg(long, value_delimiter = ',', value_name = "ORIGIN")]
    allowed_origins: Vec<String>,

    /// Host names to answer beside localhost, while only this machine is listened to
    #[arg(long, value_delimiter = ',', value_name = "HOST")]
    allowed_hosts: Vec<String>,

    /// After SIGTERM: take requests for so long with readiness red, so that routers see it before anyone is refused
    #[arg(long, default_value = "0s", value_parser = units::seconds, value_name = "TIME")]
    shutdown_delay: Duration,

    /// How long running requests may go on after SIGTERM, and after --shutdown-delay
    #[arg(long, default_value = "30s", value_parser = units::seconds, value_name = "TIME")]
    shutdown_timeout: Duration,

    /// A step of the engine that takes longer turns /livez red
    #[arg(long, default_value = "2m", value_parser = units::seconds, value_name = "TIME")]
    engine_hang_timeout: Duration,

    /// A step that takes longer ends the process with 70, for hosts without a liveness probe; 0: never [default: five times
    /// --engine-hang-timeout]
    #[arg(long, value_parser = units::seconds, value_name = "TIME")]
    exit_on_hang: Option<Duration>,

    /// Send a comment on a silent stream this often; 0: never
    #[arg(long, default_value = "15s", value_parser = units::seconds, value_name = "TIME")]
    sse_keep_alive_interval: Duration,

    /// Say in each response how long it took, in the field `metrics`
    #[arg(long)]
    enable_per_request_metrics: bool,
}

/// What `quire serve` does beside the engine.
pub(crate) struct ServeOptions {
    pub(crate) models: Vec<String>,
    pub(crate) models_memory: Option<u64>,
    pub(crate) load_format: LoadFormat,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) health_port: Option<u16>,
    pub(crate) grpc_port: Option<u16>,
    pub(crate) grpc_tls: Option<Tls>,
    /// `None`: a step that hangs ends nothing.
    pub(crate) exit_on_hang: Option<Duration>,
    pub(crate) kv_events: Option<KvEventsConfig>,
    pub(crate) num_http_threads: usize,
    /// Its `served_model_names` are empty where the model file's name is to be used.
    pub(crate) template: TemplateOptions,
    pub(crate) parsers: ParserNames,
    pub(crate) allowed_registries: Vec<String>,
    pub(crate) pull_streams: u8,
    pub(crate) otlp_traces_endpoint: Option<String>,
    pub(crate) config: ServerConfig,
}

impl ServeArgs {
    /// What the flags and the environment come to.
    pub(crate) fn resolve(
        &self,
        environment: &Environment,
    ) -> Result<(EngineOptions, ServeOptions)> {
        let network = &self.network;
        let mut engine = self.engine.resolve();
        let has_empty_name = network.served_model_name.iter().any(|name| name.trim().is_empty());
        ensure!(!has_empty_name, "--served-model-name is empty");
        if let Some(name) = network.served_model_name.first() {
            engine.served_model_name.clone_from(name);
        }
        let keys = network.api_keys(environment)?;
        let manage_keys = network.manage_keys(environment)?;
        let is_loopback = is_loopback(&network.host);
        let config = ServerConfig {
            served_model_names: network.served_model_name.clone(),
            console: !network.no_console,
            api_keys: keys.iter().map(|key| ApiKey::new(key)).collect(),
            open_management: keys.is_empty()
                && manage_keys.is_empty()
                && network.keys_file.is_none()
                && is_loopback,
            keys_file: network.keys_file.as_deref().map(KeysFile::open).transpose()?,
            manage_keys: manage_keys.iter().map(|key| ApiKey::new(key)).collect(),
            library: None,
            traces: None,
            metrics_without_key: network.metrics_without_key,
            allowed_hosts: network.allowed_hosts.clone(),
            allowed_origins: network.allowed_origins.clone(),
            limits: self.limits.resolve(),
            engine_hang_timeout: network.engine_hang_timeout,
            shutdown_delay: network.shutdown_delay,
            shutdown_timeout: network.shutdown_timeout,
            sse_keep_alive_interval: Some(network.sse_keep_alive_interval)
                .filter(|interval| !interval.is_zero()),
            per_request_metrics: network.enable_per_request_metrics,
            registry: RegistryOptions {
                keep_alive: self.several.keep_alive,
                load_timeout: self.several.model_load_timeout,
            },
        };
        let tls_files = network.tls_cert.as_ref().zip(network.tls_key.as_ref());
        let server = ServeOptions {
            models: self.models.clone(),
            models_memory: self.several.models_memory,
            load_format: self.engine.load_format(),
            host: network.host.clone(),
            port: network.port,
            health_port: network.health_port,
            grpc_port: network.grpc_port,
            kv_events: network.kv_events_config.clone().filter(KvEventsConfig::is_on),
            grpc_tls: tls_files.map(|(cert, key)| Tls::load(cert, key)).transpose()?,
            exit_on_hang: network.exit_on_hang()?,
            num_http_threads: usize::from(network.http_threads),
            template: self.template.resolve(),
            parsers: self.template.parsers(),
            allowed_registries: network.allowed_registries.clone(),
            pull_streams: network.pull_streams,
            otlp_traces_endpoint: network.otlp_traces_endpoint.clone(),
            config,
        };
        Ok((engine, server))
    }

    #[cfg(test)]
    pub(crate) fn api_keys(&self, environment: &Environment) -> Result<Vec<String>> {
        self.network.api_keys(environment)
    }
}

impl NetworkArgs {
    fn exit_on_hang(&self) -> Result<Option<Duration>> {
        let red = self.engine_hang_timeout;
        let limit = self.exit_on_hang.unwrap_or(red.saturating_mul(5));
        ensure!(
            limit.is_zero() || limit >= red,
            "--exit-on-hang is {limit:?}, before --engine-hang-timeout ({red:?}) turns /livez red"
        );
        Ok(Some(limit).filter(|limit| !limit.is_zero()))
    }

    fn api_keys(&self, environment: &Environment) -> Result<Vec<String>> {
        let mut keys = self.api_key.clone();
        if let Some(file) = &self.api_key_file {
            keys.extend(read_keys(file)?);
        }
        if keys.iter().any(|key| key.trim().is_empty()) {
            bail!("--api-key is empty");
        }
        if keys.is_empty() {
            keys.clone_from(&environment.api_keys);
        }
        Ok(keys)
    }

    fn manage_keys(&self, environment: &Environment) -> Result<Vec<String>> {
        let keys =
            if self.manage_key.is_empty() { &environment.manage_keys } else { &self.manage_key };
        if keys.iter().any(|key| key.trim().is_empty()) {
            bail!("--manage-key is empty");
        }
        Ok(keys.clone())
    }
}

impl ServeOptions {
    /// Whether only this machine can reach the server.
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// The keys of a file. None at all is a mistake: the server would stand open.
fn read_keys(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("--api-key-file {} cannot be read", file.display()))?;
    let keys: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    if keys.is_empty() {
        bail!("--api-key-file {} has no key", file.display());
    }
    Ok(keys)
}
