//! `quire serve`: loads a model and serves it until a signal asks to stop.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use quire_engine::{Engine, EngineHandle, Machine, MemoryPlan, ModelFiles};
use quire_server::app::{AppState, Health};
use quire_server::metrics::Metrics;
use quire_server::model::{SamplingDefaults, ServedModel};
use quire_server::serve::{Listeners, ProbeServer, serve};
use quire_server::text::{TemplateOptions, TextFiles, TextPipeline};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{model, plan};
use crate::args::{CommonOptions, Environment, ParserNames, ServeArgs, ServeOptions};

/// What a shell reports of a program that a second ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Serves until SIGTERM or SIGINT, then lets running requests finish. Errors are those of the start.
pub(crate) fn run(
    args: &ServeArgs,
    options: &CommonOptions,
    environment: &Environment,
) -> Result<()> {
    let (mut engine_options, mut server) = args.resolve(environment)?;
    let named = (server.model.as_deref(), server.load_format);
    let (path, files) = model::open_named(named, &options.models_dir)?;
    if server.config.served_model_names.is_empty() {
        engine_options.served_model_name = model::served_name(&path);
        server.config.served_model_names.push(engine_options.served_model_name.clone());
    }
    let plan = MemoryPlan::new(&files, &engine_options, &Machine::detect())?;
    let listener = bind(&server.host, server.port, "--port")?;
    println!("{}\n{}", path.display(), plan::table(&plan));
    warn_if_open(&server);

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(server.num_http_threads)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(serve_until_signal(listener, server, files, plan));
    // A load that a signal overtook is not waited for.
    runtime.shutdown_background();
    outcome
}

async fn serve_until_signal(
    listener: TcpListener,
    server: ServeOptions,
    files: ModelFiles,
    plan: MemoryPlan,
) -> Result<()> {
    let signals = StopSignals::new()?;
    let address = listener.local_addr()?;
    let has_keys = !server.config.api_keys.is_empty();
    let health_port = server.health_port.map(|port| bind(&server.host, port, "--health-port"));
    let state = AppState::new(server.config, Metrics::install());
    let _probes = match health_port.transpose()? {
        Some(listener) => Some(ProbeServer::start(listener, Arc::clone(&state))?),
        None => None,
    };
    let grpc = server.grpc_port.map(|port| bind(&server.host, port, "--grpc-port")).transpose()?;
    let grpc_address = grpc.as_ref().map(TcpListener::local_addr).transpose()?;
    let listeners =
        Listeners { http: asynchronous(listener)?, grpc: grpc.map(asynchronous).transpose()? };
    let (stopped, engine_stopped) = oneshot::channel();
    let shutdown = async {
        tokio::select! {
            () = signals.first_then_exit_on_second() => {}
            Ok(()) = engine_stopped => {}
        }
    };
    let mut serving = std::pin::pin!(serve(listeners, Arc::clone(&state), shutdown));

    // Probes are answered while the model loads.
    let makes_embeddings = !plan.writes_text;
    let loading =
        tokio::task::spawn_blocking(move || load(&files, &plan, &server.template, &server.parsers));
    let engine = tokio::select! {
        result = &mut serving => return Ok(result?),
        loaded = loading => {
            let (model, threads) = loaded.context("loading the model panicked")??;
            state.set_model(model);
            watch(threads, stopped)
        }
    };
    println!("{}", greeting(address, state.model_name(), has_keys, makes_embeddings));
    if let Some(address) = grpc_address {
        println!("gRPC at {address} (quire.v1.Inference, vllm.Inference, health, reflection)");
    }
    serving.await?;
    // While the state lives, so does a handle: only a failure can have ended the engine.
    ensure!(state.health() != Health::Stopped, "the engine has stopped");
    // It ends with its last handle, unless a connection that would not close still holds one.
    if Arc::into_inner(state).is_some() {
        let _ = engine.await;
    }
    Ok(())
}

/// Says when the first of the engines' threads has ended; returns when all have.
fn watch(
    threads: Vec<JoinHandle<()>>,
    stopped: oneshot::Sender<()>,
) -> tokio::task::JoinHandle<()> {
    let wait = |thread: JoinHandle<()>| {
        tokio::task::spawn_blocking(move || {
            if thread.join().is_err() {
                tracing::error!("an engine thread panicked");
            }
        })
    };
    let mut threads: JoinSet<_> = threads.into_iter().map(wait).collect();
    tokio::spawn(async move {
        let _ = threads.join_next().await;
        let _ = stopped.send(());
        while threads.join_next().await.is_some() {}
    })
}

/// Loads the weights and starts the engine, or all of several.
pub(crate) fn load(
    files: &ModelFiles,
    plan: &MemoryPlan,
    template: &TemplateOptions,
    parsers: &ParserNames,
) -> Result<(ServedModel, Vec<JoinHandle<()>>)> {
    let (text, defaults) = match files {
        ModelFiles::Gguf(file) => {
            let defaults = SamplingDefaults::from_gguf(file.metadata());
            (TextPipeline::from_gguf(file.metadata(), template)?, defaults)
        }
        ModelFiles::Dummy(_) if !files.path().join("tokenizer.json").is_file() => {
            tracing::warn!("the model has no tokenizer.json: its tokens are bytes");
            let text = TextPipeline::placeholder(plan.spec.vocab_size(), template)?;
            (text, SamplingDefaults::default())
        }
        ModelFiles::Directory(_) | ModelFiles::Dummy(_) => {
            let files = TextFiles::read(files.path())?;
            let defaults = SamplingDefaults::from_generation_config(&files.generation);
            (TextPipeline::from_directory(&files, template)?, defaults)
        }
    };
    if text.uses_fallback_template() && plan.writes_text {
        tracing::warn!("the model has no chat template: chats are written as ChatML");
    }
    let on_progress = |done: usize, total: usize| {
        tracing::debug!("loaded {done} of {total} layers");
    };
    let (mut handles, mut threads) = (Vec::new(), Vec::new());
    for replica in 0..plan.config.data_parallel_size {
        let end_tokens = text.tokenizer().eos_token_ids();
        let engine = Engine::load_replica(files, plan, replica, end_tokens, &on_progress)?;
        let (handle, thread) = engine.spawn()?;
        handles.push(handle);
        threads.push(thread);
    }
    let handle = EngineHandle::of_replicas(&handles);
    let mut model = ServedModel::new(handle, Arc::new(text), defaults);
    model.source = files.path().into();
    model.output_formats = parsers.apply(model.output_formats)?;
    if plan.writes_text {
        tracing::info!("{}", model.output_formats);
    }
    Ok((model, threads))
}

fn asynchronous(listener: TcpListener) -> Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    Ok(tokio::net::TcpListener::from_std(listener)?)
}

fn bind(host: &str, port: u16, flag: &str) -> Result<TcpListener> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    TcpListener::bind((host, port)).with_context(|| {
        format!("{host}:{port} cannot be listened on; choose another with --host and {flag}")
    })
}

fn warn_if_open(server: &ServeOptions) {
    if !server.is_loopback() && server.config.api_keys.is_empty() {
        tracing::warn!(
            "everyone who can reach {} may use this server: set --api-key or QUIRE_API_KEY",
            server.host
        );
    }
}

/// What to do next, ready to be pasted.
fn greeting(address: SocketAddr, model: &str, has_keys: bool, makes_embeddings: bool) -> String {
    let host = if address.ip().is_unspecified() {
        format!("127.0.0.1:{}", address.port())
    } else {
        address.to_string()
    };
    let key = if has_keys { " -H \"Authorization: Bearer $QUIRE_API_KEY\"" } else { "" };
    let (route, body) = match makes_embeddings {
        true => ("embeddings", r#"{"model": "default", "input": "Why is the sky blue?"}"#),
        false => (
            "chat/completions",
            r#"{"model": "default", "temperature": 0, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}"#,
        ),
    };
    format!(
        "serving {model} at http://{host} (OpenAI API under /v1)\ntry:\n  \
         curl http://{host}/v1/{route}{key} -H 'Content-Type: application/json' -d '{body}'"
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
        eprintln!("stopping: running requests may finish, a second signal ends them");
        tokio::spawn(async move {
            self.next().await;
            std::process::exit(INTERRUPTED);
        });
    }
}
