//! A server whose engine pretends: a token for every stream at each step, and no arithmetic.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use quire_engine::handle::{EngineInfo, EngineQueue, SchedulerStats, Submission};
use quire_engine::request::{FinishReason, Finished, Started, StreamEvent, TokenOutput};
use quire_engine::validate::{RequestLimits, Tasks};
use quire_engine::{EngineHandle, ModelFiles};
use quire_server::app::{AppState, ServerConfig};
use quire_server::metrics::Metrics;
use quire_server::model::{SamplingDefaults, ServedModel};
use quire_server::serve::{Listeners, serve};
use quire_server::text::{TemplateOptions, TextPipeline};
use tokio::net::TcpListener;

/// A request whose `max_tokens` is this gets its first token and no other.
pub(super) const IDLE: u32 = 7;

const MAX_STREAMS: usize = 16384;

/// The process that serves; ends with this value.
pub struct Mock {
    child: Child,
    /// Of HTTP.
    pub(super) http: String,
    pub(super) grpc: String,
}

impl Mock {
    /// Starts this program again, to serve.
    pub fn spawn(model: &Path, step_us: u64) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([model.as_os_str(), "--step-us".as_ref(), step_us.to_string().as_ref()])
            .arg("mock")
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("it is piped")?).lines();
        let mut next = || lines.next().context("the mock ended at once")?.context("no line");
        let (http, grpc) = (next()?, next()?);
        Ok(Self { child, http, grpc })
    }

    /// Serves until it is killed.
    pub fn serve(model: &Path, step: Duration) -> anyhow::Result<()> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let text = pipeline(&ModelFiles::open(model)?, &TemplateOptions::default())?;
        let vocab_size = text.tokenizer().vocab_size() as u32;
        let (handle, queue) = EngineHandle::new(info(vocab_size));
        let state = AppState::new(config(), Metrics::install());
        state.set_model(ServedModel::new(handle, Arc::new(text), SamplingDefaults::default()));
        std::thread::Builder::new().name("mock".into()).spawn(move || pretend(&queue, step))?;
        runtime.block_on(async {
            let http = TcpListener::bind("127.0.0.1:0").await?;
            let grpc = TcpListener::bind("127.0.0.1:0").await?;
            crate::report::print(&format!("{}\n{}\n", http.local_addr()?, grpc.local_addr()?));
            let listeners = Listeners { http, grpc: Some(grpc), grpc_tls: None };
            serve(listeners, state, std::future::pending()).await?;
            Ok(())
        })
    }

    /// Seconds of processor time of all threads but the one that pretends.
    pub(super) fn processor_seconds(&self) -> anyhow::Result<f64> {
        let mut seconds = 0.0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let path = task?.path();
            let name = std::fs::read_to_string(path.join("comm"))?;
            if name.trim() != "mock" {
                // Nanoseconds on a processor, then of waiting, then turns.
                let times = std::fs::read_to_string(path.join("schedstat"))?;
                let on_processor = times.split(' ').next().context("schedstat is empty")?;
                seconds += on_processor.parse::<f64>()? * 1e-9;
            }
        }
        Ok(seconds)
    }

    pub(super) fn resident_kib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.context("no VmRSS")?.trim().trim_end_matches("kB").trim();
        Ok(number.parse()?)
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text of a GGUF file.
pub(super) fn pipeline(
    files: &ModelFiles,
    options: &TemplateOptions,
) -> anyhow::Result<TextPipeline> {
    match files {
        ModelFiles::Gguf(file) => Ok(TextPipeline::from_gguf(file.metadata(), options)?),
        _ => bail!("the model must be a GGUF file"),
    }
}

fn info(vocab_size: u32) -> EngineInfo {
    let tasks = Tasks {
        generates: true,
        hidden_size: 4,
        max_embedded_len: 1,
        no_embeddings: None,
        scores: None,
    };
    let limits = RequestLimits {
        vocab_size,
        max_model_len: 1 << 20,
        max_logprobs: 20,
        max_token_list: 1024,
        tasks,
    };
    EngineInfo {
        limits,
        max_num_queued: MAX_STREAMS as u32,
        max_num_seqs: MAX_STREAMS as u32,
        max_num_batched_tokens: 8192,
        block_size: 16,
        num_blocks: 1 << 16,
    }
}

fn config() -> ServerConfig {
    let mut config = ServerConfig { sse_keep_alive_interval: None, ..ServerConfig::default() };
    config.limits.max_connections = MAX_STREAMS;
    config.limits.max_streams = MAX_STREAMS as u32;
    config
}

/// A stream that gets tokens.
struct Live {
    submission: Submission,
    num_left: u32,
}

/// Gives each stream a token a step, at fixed times.
fn pretend(queue: &EngineQueue, step: Duration) {
    // Ids of words in the tokenizers of the models that are used.
    const TOKENS: std::ops::Range<u32> = 1000..9000;
    let (mut live, mut idle) = (Vec::new(), Vec::new());
    let mut token = TOKENS.start;
    let mut next = Instant::now();
    loop {
        while let Ok(Some(submission)) = queue.try_recv() {
            queue.publish(SchedulerStats::default());
            let _: bool = submission.events.send(StreamEvent::Started(Started::default()));
            let max_tokens = submission.request.params.max_tokens.unwrap_or(1);
            if max_tokens == IDLE {
                let output = TokenOutput { token, logprobs: None };
                let _: bool = submission.events.send(StreamEvent::Token(output));
                idle.push(submission);
            } else {
                live.push(Live { submission, num_left: max_tokens });
            }
        }
        live.retain_mut(|stream: &mut Live| {
            token = if token + 1 < TOKENS.end { token + 1 } else { TOKENS.start };
            let output = TokenOutput { token, logprobs: None };
            stream.num_left -= 1;
            let is_open = stream.submission.events.send(StreamEvent::Token(output));
            if stream.num_left == 0 {
                finish(&stream.submission);
            }
            is_open && stream.num_left > 0
        });
        next = (next + step).max(Instant::now());
        std::thread::sleep(next - Instant::now());
    }
}

fn finish(submission: &Submission) {
    let _: bool = submission.events.send(StreamEvent::Finished(Finished {
        reason: FinishReason::Length,
        num_prompt_tokens: submission.request.prompt.len() as u32,
        num_output_tokens: submission.request.params.max_tokens.unwrap_or(1),
        num_cached_tokens: 0,
    }));
}
