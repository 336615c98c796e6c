//! `quire serve`: loads a model, or several on demand, and serves until a signal asks to stop.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use quire_engine::plan::human_bytes;
use quire_engine::{Machine, MemoryPlan, ModelFiles};
use quire_server::app::{AppState, Health, SharedState};
use quire_server::log_lines;
use quire_server::metrics::Metrics;
use quire_server::model::ServedModel;
use quire_server::pull::Library;
use quire_server::registry::{Entry, Loader, Origin, Taken, num_shares};
use quire_server::serve::{Listeners, ProbeServer, serve};
use quire_server::traces::Exporter;
use quire_server::watchdog;
use socket2::SockRef;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::doctor::{self, Surroundings};
use super::several::{self, Named};
use super::{model, plan, pull};
use crate::args::{CommonOptions, Environment, LoadFormat, ServeArgs, ServeOptions};
use crate::exit::{self, EngineStopped};

/// What a shell reports of a program that a second ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Connections that may wait to be accepted; the system cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// What is served.
enum Served {
    /// Loaded at start; it stays.
    One(Box<(Origin, ModelFiles, MemoryPlan)>),
    /// Loaded when they are asked for.
    Several(Vec<Named>),
}

/// Serves until SIGTERM or SIGINT, then lets running requests finish. Errors are those of the start.
pub(crate) fn run(
    args: &ServeArgs,
    options: &CommonOptions,
    environment: &Environment,
) -> Result<()> {
    let (engine, mut server) = args.resolve(environment)?;
    let machine = Machine::detect();
    let memory = server.models_memory.unwrap_or(machine.available_memory);
    let template = server.template;
    server.config.library = Some(Arc::new(Library {
        models_dir: options.models_dir.clone(),
        sources: pull::sources(environment, server.pull_streams),
        allowed_registries: server.allowed_registries.clone(),
    }));
    let parsers = server.parsers.clone();
    let kv_events = server.kv_events.clone();
    let mut loader = Loader { engine, template, parsers, machine, memory, kv_events };
    let several = match server.load_format {
        LoadFormat::Auto => several::find(&server.models, options)?,
        LoadFormat::Dummy(_) => None,
    };
    let served = match several {
        Some(named) => several_models(named, &server, &loader)?,
        None => one_model(&mut server, &mut loader, options)?,
    };
    let listener = bind(&server.host, server.port, "--port")?;
    warn_if_open(&server);
    let planned = match &served {
        Served::One(opened) => Some(Ok((opened.2.total_bytes(), opened.2.config.threads))),
        Served::Several(_) => None,
    };
    let max_connections = server.config.limits.max_connections;
    let around = Surroundings::of_server(options, planned, max_connections);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(server.num_http_threads)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(serve_until_signal((listener, around), server, served, loader));
    // A load that a signal overtook is not waited for.
    runtime.shutdown_background();
    outcome
}

/// Opens and plans the one model, and prints the plan.
fn one_model(
    server: &mut ServeOptions,
    loader: &mut Loader,
    options: &CommonOptions,
) -> Result<Served> {
    ensure!(server.models.len() < 2, "--load-format dummy serves one model");
    let named = (server.models.first().map(String::as_str), server.load_format);
    let (origin, files) = model::open_named(named, options)?;
    if server.config.served_model_names.is_empty() {
        loader.engine.served_model_name = match &server.models[..] {
            // A blob has no name of its own.
            [name] if origin.digest.is_some() => name.clone(),
            _ => model::served_name(&origin.path),
        };
        server.config.served_model_names.push(loader.engine.served_model_name.clone());
    }
    let name = loader.engine.served_model_name.clone();
    let plan = loader.plan(&files, &name, 1);
    let plan = plan.map_err(|error| exit::bad_plan(error, &files, &loader.machine))?;
    say(&format!("{}\n{}", origin.path.display(), plan::table(&plan)));
    Ok(Served::One(Box::new((origin, files, plan))))
}

/// Looks at each model, so that a file that cannot be used is told now, and prints a line for it.
fn several_models(mut named: Vec<Named>, server: &ServeOptions, loader: &Loader) -> Result<Served> {
    ensure!(
        server.config.served_model_names.is_empty(),
        "--served-model-name names one model, but several are served, by the names of their files"
    );
    let has_events = server.kv_events.is_some();
    ensure!(!has_events, "--kv-events-config tells of one model, but several are served");
    say(&format!("{} for models, loaded when they are asked for:", human_bytes(loader.memory)));
    let num_shares = num_shares(named.len());
    for Named { names, origin, max_model_len } in &mut named {
        let planned =
            model::open(&origin.path).and_then(|files| loader.plan(&files, &names[0], num_shares));
        match planned {
            Ok(plan) => {
                *max_model_len = Some(plan.config.max_model_len);
                say(&format!("  {}: {}", names[0], human_bytes(plan.total_bytes())));
            }
            Err(error) => say(&format!("  {}: unusable: {error:#}", names[0])),
        }
    }
    Ok(Served::Several(named))
}

async fn serve_until_signal(
    (listener, around): (TcpListener, Surroundings),
    server: ServeOptions,
    served: Served,
    loader: Loader,
) -> Result<()> {
    let signals = StopSignals::new()?;
    let address = listener.local_addr()?;
    let health_port = server.health_port.map(|port| bind(&server.host, port, "--health-port"));
    let metrics = Metrics::install();
    let mut config = server.config;
    config.traces = server.otlp_traces_endpoint.as_deref().map(Exporter::start).transpose()?;
    let state = AppState::new(config, metrics);
    watch(&state, around, server.exit_on_hang)?;
    let models = Arc::clone(&state.models);
    // Events are those of the model that is always loaded.
    models.set_loader(Loader { kv_events: None, ..loader.clone() });
    let _probes = match health_port.transpose()? {
        Some(listener) => Some(ProbeServer::start(listener, Arc::clone(&state))?),
        None => None,
    };
    let grpc = server.grpc_port.map(|port| bind(&server.host, port, "--grpc-port")).transpose()?;
    let grpc_address = grpc.as_ref().map(TcpListener::local_addr).transpose()?;
    let scheme = if server.grpc_tls.is_some() { "gRPC over TLS" } else { "gRPC" };
    let listeners = Listeners {
        http: asynchronous(listener)?,
        grpc: grpc.map(asynchronous).transpose()?,
        grpc_tls: server.grpc_tls,
    };
    let shutdown = async move {
        tokio::select! {
            () = signals.first_then_exit_on_second() => {}
            () = models.failure() => {}
        }
    };
    // Of the runtime's own threads: one that accepts a connection also reads it.
    let mut serving = tokio::spawn(serve(listeners, Arc::clone(&state), shutdown));

    let makes_embeddings = match served {
        Served::Several(named) => {
            for Named { names, origin, max_model_len } in named {
                let entry = Entry::on_demand(names, origin);
                max_model_len.iter().for_each(|&len| entry.set_max_model_len(len));
                state.models.add(entry)?;
            }
            false
        }
        // Probes are answered while the model loads.
        Served::One(opened) => {
            let (origin, files, plan) = *opened;
            let makes_embeddings = !plan.writes_text;
            let taken = Taken::of(&plan);
            let load = move || load_one(&loader, &files, &plan, &origin);
            let loading = tokio::task::spawn_blocking(load);
            tokio::select! {
                result = &mut serving => return Ok(result??),
                loaded = loading => {
                    let (model, threads) = loaded.context("loading the model panicked")??;
                    state.set_running_model(model, threads, taken);
                }
            }
            makes_embeddings
        }
    };
    let reaper = state.models.reap();
    say(&greeting(address, &state, makes_embeddings));
    if let Some(address) = grpc_address {
        say(&format!(
            "{scheme} at {address} (quire.v1.Inference, vllm.Inference, health, reflection)"
        ));
    }
    serving.await??;
    reaper.abort();
    if state.health() == Health::Stopped {
        return Err(EngineStopped.into());
    }
    // Engines end with their last handles, unless a connection that would not close still holds one.
    state.models.close().await;
    Ok(())
}

fn load_one(
    loader: &Loader,
    files: &ModelFiles,
    plan: &MemoryPlan,
    origin: &Origin,
) -> Result<(ServedModel, Vec<JoinHandle<()>>)> {
    let loaded = loader.load(files, plan, origin);
    loaded.map_err(|error| exit::bad_load(error, files, plan))
}

/// Looks for what could fail, and for steps that hang.
fn watch(state: &SharedState, around: Surroundings, limit: Option<Duration>) -> Result<()> {
    doctor::watch::start(around);
    if let Some(limit) = limit {
        watchdog::start(state, limit, exit_at_once)?;
    }
    Ok(())
}

/// What is run at an exit may hang as well, such as a driver's.
fn exit_at_once() {
    thread::spawn(|| {
        thread::sleep(Duration::from_secs(10));
        std::process::abort();
    });
    log_lines::flush();
    std::process::exit(watchdog::EXIT_HUNG);
}

fn asynchronous(listener: TcpListener) -> Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    Ok(tokio::net::TcpListener::from_std(listener)?)
}

fn bind(host: &str, port: u16, flag: &str) -> Result<TcpListener> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let listener = TcpListener::bind((host, port)).with_context(|| {
        format!("{host}:{port} cannot be listened on; choose another with --host and {flag}")
    })?;
    // std asks for 128: of more that come at once, each waits a second for its next try.
    SockRef::from(&listener).listen(BACKLOG)?;
    Ok(listener)
}

fn warn_if_open(server: &ServeOptions) {
    if !server.is_loopback() && !server.config.has_keys() {
        tracing::warn!(
            "everyone who can reach {} may use this server: set --api-key or QUIRE_API_KEY",
            server.host
        );
    }
}

/// Prints a line. `println!` panics where the disk below is full, and a server has better to do.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// What to do next, ready to be pasted.
fn greeting(address: SocketAddr, state: &AppState, makes_embeddings: bool) -> String {
    let host = if address.ip().is_unspecified() {
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    };
    let model = state.models.names().join(", ");
    let key = match state.config.has_keys() {
        true => " -H \"Authorization: Bearer $QUIRE_API_KEY\"",
        false => "",
    };
    let console = match state.config.console {
        true => format!("\nor open http://{host}/console"),
        false => String::new(),
    };
    let (route, body) = match makes_embeddings {
        true => ("embeddings", r#"{"model": "default", "input": "Why is the sky blue?"}"#),
        false => (
            "chat/completions",
            r#"{"model": "default", "temperature": 0, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}"#,
        ),
    };
    format!(
        "serving {model} at http://{host} (OpenAI API under /v1)\ntry:\n  \
         curl http://{host}/v1/{route}{key} -H 'Content-Type: application/json' -d '{body}'{console}"
    )
}

/// SIGTERM and SIGINT, watched from before the model loads.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> Result<Self> {
        let watch = |kind| signal(kind).context("signals cannot be watched");
        // From here on it ends nothing, also before anybody serves.
        drop(watch(SignalKind::hangup())?);
        Ok(Self {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Done at the first signal; the second one ends the process at once.
    async fn first_then_exit_on_second(mut self) {
        self.next().await;
        let line = "stopping: running requests may finish, a second signal ends them";
        let _ = writeln!(std::io::stderr(), "{line}");
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(INTERRUPTED);
        });
    }
}
