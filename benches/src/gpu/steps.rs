//! Whole steps of models with dummy weights, through the engine as the server drives it: time to ready, prefill, decode of
//! batches at two contexts, and what the host takes of a step.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use quire_engine::config::{DeviceChoice, WeightFormat};
use quire_engine::{
    Engine, EngineHandle, EngineOptions, Machine, MemoryPlan, ModelFiles, Request, SamplingParams,
    TokenStream,
};
use quire_kernels::cases::{Work, random_f32};
use serde::Serialize;

use super::Output;
use super::floors::Floors;
use crate::model_work::ModelWork;
use crate::report::{Table, progress, three_digits};
use crate::streams::{expect_length, next_token};

/// Sequences join a batch some steps apart.
const SPARE_STEPS: usize = 8;

/// Positions that the KV cache has for each sequence beside those it will need: some blocks.
const SPARE_POSITIONS: usize = 64;

/// Steps that are timed.
const TIMED_STEPS: usize = 48;

/// Models by name, as their configurations say.
pub const MODELS: [(&str, &str); 2] = [
    ("Llama-3.1-8B", include_str!("llama-3.1-8b.json")),
    ("Qwen3-8B", include_str!("qwen3-8b.json")),
];

/// So small that its steps are the host's time and launches.
const HOST_BOUND: (&str, &str) = ("host-bound", include_str!("host-bound.json"));

/// What to run.
pub struct Plan {
    pub models: Vec<(&'static str, &'static str)>,
    pub formats: Vec<WeightFormat>,
    pub batches: Vec<usize>,
    pub contexts: Vec<usize>,
    pub max_num_batched_tokens: u32,
}

impl Plan {
    pub fn full() -> Self {
        Self {
            models: MODELS.to_vec(),
            formats: vec![WeightFormat::BF16, WeightFormat::Q4K],
            batches: vec![1, 8, 32, 128, 256],
            contexts: vec![1024, 8192],
            max_num_batched_tokens: 8192,
        }
    }

    pub fn tiny() -> Self {
        Self {
            models: vec![HOST_BOUND],
            formats: vec![WeightFormat::BF16, WeightFormat::Q4_0],
            batches: vec![1, 3],
            contexts: vec![20],
            max_num_batched_tokens: 64,
        }
    }
}

#[derive(Default, Serialize)]
struct Report {
    floors: Option<Floors>,
    models: Vec<ModelReport>,
    /// Milliseconds a step of a model so small that they are the host's and the launches'; by batch.
    host_milliseconds: Vec<(usize, f64)>,
    left_out: Vec<String>,
}

#[derive(Serialize)]
struct ModelReport {
    model: &'static str,
    format: &'static str,
    /// From opening config.json until requests are taken; the process was there.
    ready_seconds: f64,
    figures: Vec<Figure>,
}

#[derive(Serialize)]
struct Figure {
    /// "prefill" or "decode".
    phase: &'static str,
    batch: usize,
    context: usize,
    /// Of a step, or of a whole prompt.
    milliseconds: f64,
    floor_milliseconds: f64,
    tokens_per_second: f64,
}

pub fn run(output: &Output, floors: &Floors, plan: &Plan, ordinal: usize) -> anyhow::Result<()> {
    let folder = output.folder.join("models");
    let mut report = Report { floors: Some(*floors), ..Report::default() };
    let mut failed = false;
    for &(model, config) in &plan.models {
        for &format in &plan.formats {
            let path = folder.join(model);
            std::fs::create_dir_all(&path)?;
            std::fs::write(path.join("config.json"), config)?;
            progress(&format!("{model} {format} ..."));
            let mut one = Model { path, ordinal, format, plan, floors, report: &mut report };
            if let Err(error) = one.run(model) {
                report.left_out.push(format!("{model} {format}: {error:#}"));
                failed = true;
            }
            output.write("steps", &page(&report), &report)?;
        }
    }
    let path = folder.join(HOST_BOUND.0);
    std::fs::create_dir_all(&path)?;
    std::fs::write(path.join("config.json"), HOST_BOUND.1)?;
    for &batch in &plan.batches {
        let one = Model {
            path: path.clone(),
            ordinal,
            format: WeightFormat::BF16,
            plan,
            floors,
            report: &mut report,
        };
        let started = one.start(batch, 16)?;
        let step = decode(&started, batch, 16, plan.max_num_batched_tokens)?;
        report.host_milliseconds.push((batch, 1e3 * step.1));
        started.end()?;
    }
    output.write("steps", &page(&report), &report)?;
    anyhow::ensure!(!failed, "{}", report.left_out.join("; "));
    Ok(())
}

struct Model<'a> {
    path: PathBuf,
    ordinal: usize,
    format: WeightFormat,
    plan: &'a Plan,
    floors: &'a Floors,
    report: &'a mut Report,
}

struct Started {
    handle: EngineHandle,
    /// Ends when the handle is dropped, and gives the memory back.
    thread: JoinHandle<()>,
    work: ModelWork,
    vocab_size: usize,
    kv_tokens: usize,
    ready_seconds: f64,
}

impl Model<'_> {
    /// An engine for `batch` sequences; the KV cache takes what is free.
    fn start(&self, batch: usize, context: usize) -> anyhow::Result<Started> {
        let begin = Instant::now();
        let files = ModelFiles::dummy(&self.path, self.format)?;
        let budget = self.plan.max_num_batched_tokens.max(batch as u32);
        // Blocks are whole, and the last of each sequence is not.
        let len = context + num_outputs(batch, context, budget);
        let len = len.next_multiple_of(SPARE_POSITIONS) + SPARE_POSITIONS;
        let options = EngineOptions {
            device: DeviceChoice::Cuda(self.ordinal),
            enable_prefix_caching: false,
            max_num_seqs: Some(batch as u32),
            max_num_batched_tokens: Some(budget),
            max_model_len: Some(len as u32),
            ..EngineOptions::default()
        };
        let plan = MemoryPlan::new(&files, &options, &Machine::detect())?;
        let work = ModelWork::new(&files, &plan);
        let engine = Engine::load(&files, &plan, &[], &|_, _| ())?;
        let (handle, thread) = engine.spawn()?;
        let pages = (plan.kv_bytes / plan.kv_bytes_per_token) as usize;
        Ok(Started {
            handle,
            thread,
            work,
            vocab_size: plan.spec.vocab_size(),
            kv_tokens: pages,
            ready_seconds: begin.elapsed().as_secs_f64(),
        })
    }

    fn run(&mut self, model: &'static str) -> anyhow::Result<()> {
        let most = self.plan.batches.iter().copied().max().context("batches")?;
        let longest = self.plan.contexts.iter().copied().max().context("contexts")?;
        let started = self.start(most, longest)?;
        let (floors, format) = (*self.floors, self.format.name());
        let figures = Vec::new();
        let ready_seconds = started.ready_seconds;
        let mut report = ModelReport { model, format, ready_seconds, figures };
        prefill(&started, 16)?; // touches everything once
        for &context in &self.plan.contexts {
            let seconds = prefill(&started, context)?;
            let work = started.work.prefill(context as u64);
            report.figures.push(figure("prefill", (1, context), seconds, work, &floors));
            for &batch in &self.plan.batches {
                let budget = self.plan.max_num_batched_tokens;
                if batch * (context + num_outputs(batch, context, budget)) > started.kv_tokens {
                    let why =
                        format!("{model} {format}: {batch} x {context} does not fit the KV cache");
                    self.report.left_out.push(why);
                    continue;
                }
                progress(&format!("  {batch} x {context} ..."));
                let (positions, seconds) = decode(&started, batch, context, budget)?;
                let work = started.work.decode_step(batch as u64, positions as u64);
                report.figures.push(figure("decode", (batch, context), seconds, work, &floors));
            }
        }
        self.report.models.push(report);
        started.end()
    }
}

impl Started {
    /// Returns when the GPU's memory is free again.
    fn end(self) -> anyhow::Result<()> {
        drop(self.handle);
        self.thread.join().map_err(|_| anyhow::anyhow!("the engine thread panicked"))
    }
}

/// Tokens that each sequence of a batch writes, so that all run in every step that is timed.
fn num_outputs(batch: usize, context: usize, budget: u32) -> usize {
    1 + TIMED_STEPS + (batch * context).div_ceil(budget as usize) + SPARE_STEPS
}

fn figure(
    phase: &'static str,
    (batch, context): (usize, usize),
    seconds: f64,
    work: Work,
    floors: &Floors,
) -> Figure {
    let tokens = if phase == "decode" { batch } else { context };
    Figure {
        phase,
        batch,
        context,
        milliseconds: 1e3 * seconds,
        floor_milliseconds: 1e3 * floors.of(work).0,
        tokens_per_second: tokens as f64 / seconds,
    }
}

/// Token ids that no other prompt has.
fn prompt(started: &Started, seed: usize, len: usize) -> Vec<u32> {
    let last = started.vocab_size - 1;
    let id = |x: f32| ((f32::midpoint(x, 1.0) * last as f32) as usize).min(last) as u32;
    random_f32(seed as u64 + 1, len).into_iter().map(id).collect()
}

fn submit(
    started: &Started,
    seed: usize,
    len: usize,
    outputs: usize,
) -> anyhow::Result<TokenStream> {
    let params = SamplingParams { ignore_eos: true, ..SamplingParams::greedy(outputs as u32) };
    Ok(started.handle.generate(Request::new(prompt(started, seed, len), params))?)
}

/// Seconds from the request to its first token.
fn prefill(started: &Started, len: usize) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let mut stream = submit(started, 999, len, 1)?;
    next_token(&mut stream)?;
    let seconds = begin.elapsed().as_secs_f64();
    expect_length(&mut stream)?;
    Ok(seconds)
}

/// Positions of each sequence in the middle of what was timed, and seconds a step in which all sequences run.
fn decode(
    started: &Started,
    batch: usize,
    context: usize,
    budget: u32,
) -> anyhow::Result<(usize, f64)> {
    let outputs = num_outputs(batch, context, budget);
    let mut streams = (0..batch)
        .map(|seed| submit(started, seed, context, outputs))
        .collect::<Result<Vec<_>, _>>()?;
    let mut stamps = Vec::with_capacity(outputs);
    for _ in 0..outputs {
        streams.iter_mut().try_for_each(next_token)?;
        stamps.push(Instant::now());
    }
    streams.iter_mut().try_for_each(expect_length)?;
    // The last to join has its first token at the first stamp.
    let seconds = (stamps[TIMED_STEPS] - stamps[0]).as_secs_f64() / TIMED_STEPS as f64;
    Ok((context + outputs / 2, seconds))
}

fn page(report: &Report) -> String {
    let columns =
        ["model", "weights", "phase", "batch", "context", "ms", "floor ms", "times floor", "tok/s"];
    let mut table = Table::new(&columns).with_text_columns(3);
    let mut ready = Table::new(&["model", "weights", "ready after s"]).with_text_columns(2);
    for model in &report.models {
        ready.row([model.model.into(), model.format.into(), three_digits(model.ready_seconds)]);
        for figure in &model.figures {
            table.row([
                model.model.into(),
                model.format.into(),
                figure.phase.into(),
                figure.batch.to_string(),
                figure.context.to_string(),
                three_digits(figure.milliseconds),
                three_digits(figure.floor_milliseconds),
                format!("{:.2}", figure.milliseconds / figure.floor_milliseconds),
                three_digits(figure.tokens_per_second),
            ]);
        }
    }
    let mut host = Table::new(&["batch", "ms a step"]);
    for (batch, milliseconds) in &report.host_milliseconds {
        host.row([batch.to_string(), format!("{milliseconds:.3}")]);
    }
    let left_out = report.left_out.iter().map(|line| format!("- left out: {line}\n"));
    format!(
        "{}\nDummy weights, greedy, no prefix cache; a decode step is timed while all sequences run.\n\n{table}\n{ready}\n\
         A model of one tiny layer, whose steps are the host's work and the launches:\n\n{host}\n{}",
        report.floors.map_or(String::new(), |floors| floors.page()),
        left_out.collect::<String>()
    )
}
