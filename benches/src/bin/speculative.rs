//! Times speculative decoding against none, in this process: workloads of several kinds, users at once, methods in turn.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use quire_benches::machine::MachineLimits;
use quire_benches::report::{Run, Table, percent, print, progress, three_digits, write_json};
use quire_benches::statistics::median;
use quire_benches::workloads::{Workload, random_tokens};
use quire_engine::config::{MAX_DRAFTS, Speculative, SpeculativeMethod};
use quire_engine::request::StreamEvent;
use quire_engine::{
    Engine, EngineHandle, EngineOptions, Machine, MemoryPlan, ModelFiles, Request, SamplingParams,
};
use quire_server::text::{ChatInput, TemplateOptions, TextFiles, TextPipeline};
use serde::Serialize;
use serde_json::json;

/// Tokens of a prompt of the random workload.
const RANDOM_TOKENS: usize = 200;

/// Time speculative decoding against none, workload by workload.
#[derive(Debug, Parser)]
struct Args {
    /// The GGUF file or directory
    model: PathBuf,

    /// What is compared with none, as `quire serve --speculative` takes it
    #[arg(long, value_delimiter = ',', default_value = "ngram")]
    methods: Vec<SpeculativeMethod>,

    /// The most drafts of a sequence in a step
    #[arg(long, default_value_t = MAX_DRAFTS)]
    num_speculative_tokens: u32,

    /// With an EAGLE head: guess a tree of tokens, following so many of them at once; 1: one after the other
    #[arg(long, default_value_t = 1)]
    speculative_eagle_topk: u32,

    /// Take every guess, whether it pays or not
    #[arg(long)]
    speculative_always: bool,

    /// chat, code, copy-editing, summarise, random
    #[arg(long, value_delimiter = ',', value_parser = workload,
        default_value = "chat,code,copy-editing,summarise,random")]
    workloads: Vec<Workload>,

    /// Users at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32])]
    users: Vec<usize>,

    /// Tokens of each answer
    #[arg(long, default_value_t = 192)]
    output_tokens: usize,

    /// Answers that a user asks for in a round
    #[arg(long, default_value_t = 2)]
    turns: usize,

    /// Rounds of which the median counts; methods take turns
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// Compute threads [default: one a physical core]
    #[arg(long)]
    threads: Option<usize>,

    /// Also write the report as JSON to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    run: Run,
    limits: MachineLimits,
    model: String,
    num_speculative_tokens: u32,
    figures: Vec<Figure>,
}

#[derive(Serialize)]
struct Figure {
    workload: &'static str,
    users: usize,
    method: String,
    tokens_per_second: f64,
    /// Of the tokens a second without speculation.
    speed: f64,
    /// Right drafts of all drafts.
    acceptance: f64,
    /// Right first drafts of all first drafts, and so on, as far as there were any.
    acceptance_by_position: Vec<f64>,
    /// Drafts for each token of the answers.
    drafts_per_token: f64,
    /// Tokens that a sequence got in a step.
    tokens_per_step: f64,
}

/// One engine, and what it has done.
struct Subject {
    method: Option<SpeculativeMethod>,
    handle: EngineHandle,
    tokens_per_second: Vec<f64>,
}

/// Sums over the rounds.
#[derive(Clone, Copy, Default)]
struct Drafts {
    /// Of the answers.
    num_tokens: u64,
    verified: u64,
    tokens: u64,
    right: [u64; MAX_DRAFTS as usize],
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.users.contains(&0) || args.output_tokens < 2 || args.rounds.min(args.turns) == 0 {
        bail!("--users, --turns and --rounds must be at least 1, --output-tokens 2");
    }
    progress("loading ...");
    let files = ModelFiles::open(&args.model)?;
    let text = text_pipeline(&files, &args.model)?;
    let methods = std::iter::once(None).chain(args.methods.iter().cloned().map(Some));
    let mut subjects =
        methods.map(|method| load(&args, &files, method)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut figures = Vec::new();
    for &workload in &args.workloads {
        for &users in &args.users {
            progress(&format!("{}, {users} users ...", workload.name()));
            let requests = requests(&args, &subjects[0].handle, &text, workload, users)?;
            figures.extend(measure(&args, &mut subjects, workload, &requests)?);
        }
    }
    let threads = args.threads.unwrap_or(Machine::detect().num_cores);
    drop(subjects);
    progress("measuring the machine ...");
    let model = args.model.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    let report = Report {
        run: Run::here(),
        limits: MachineLimits::measure(threads),
        model,
        num_speculative_tokens: args.num_speculative_tokens,
        figures,
    };
    print(&markdown(&report));
    write_json(args.json.as_deref(), &report)
}

fn workload(name: &str) -> Result<Workload, String> {
    Workload::named(name)
        .ok_or_else(|| "write chat, code, copy-editing, summarise or random".to_owned())
}

fn text_pipeline(files: &ModelFiles, path: &std::path::Path) -> anyhow::Result<TextPipeline> {
    let options = TemplateOptions::default();
    Ok(match files {
        ModelFiles::Gguf(file) => TextPipeline::from_gguf(file.metadata(), &options)?,
        ModelFiles::Directory(_) | ModelFiles::Dummy(_) => {
            TextPipeline::from_directory(&TextFiles::read(path)?, &options)?
        }
    })
}

fn load(
    args: &Args,
    files: &ModelFiles,
    method: Option<SpeculativeMethod>,
) -> anyhow::Result<Subject> {
    let most_users = args.users.iter().copied().max().context("--users is empty")?;
    let speculative = method.clone().map(|method| Speculative {
        num_tokens: args.num_speculative_tokens,
        is_adaptive: !args.speculative_always,
        eagle_topk: match method.to_string().starts_with("eagle:") {
            true => args.speculative_eagle_topk,
            false => 1,
        },
        ..Speculative::new(method)
    });
    let options = EngineOptions {
        threads: args.threads,
        max_num_seqs: Some(most_users as u32),
        max_model_len: Some(2048),
        speculative,
        ..EngineOptions::default()
    };
    let plan = MemoryPlan::new(files, &options, &Machine::detect())?;
    let engine = Engine::load(files, &plan, &[], &|_, _| ())?;
    Ok(Subject { method, handle: engine.spawn()?.0, tokens_per_second: Vec::new() })
}

fn requests(
    args: &Args,
    handle: &EngineHandle,
    text: &TextPipeline,
    workload: Workload,
    users: usize,
) -> anyhow::Result<Vec<Request>> {
    let request = |user: usize| {
        let prompt = if let Some(message) = workload.message(user) {
            text.encode_chat(&ChatInput {
                messages: vec![json!({"role": "user", "content": message})],
                add_generation_prompt: true,
                ..ChatInput::default()
            })?
        } else {
            let vocab_size = handle.info().limits.vocab_size as usize;
            random_tokens(user, RANDOM_TOKENS, vocab_size)
        };
        let params = SamplingParams {
            temperature: workload.temperature(),
            seed: Some(user as u64),
            ignore_eos: true,
            ..SamplingParams::greedy(args.output_tokens as u32)
        };
        Ok(Request::new(prompt, params))
    };
    (0..users).map(request).collect()
}

/// Every method in turn, round after round; the first one, which fills the prefix caches, does not count.
fn measure(
    args: &Args,
    subjects: &mut [Subject],
    workload: Workload,
    requests: &[Request],
) -> anyhow::Result<Vec<Figure>> {
    let mut drafts = vec![Drafts::default(); subjects.len()];
    for round in 0..=args.rounds {
        for (subject, drafts) in subjects.iter_mut().zip(&mut drafts) {
            let before = Drafts::of(&subject.handle);
            let (tokens_per_second, tokens) = run(&subject.handle, requests, args.turns)?;
            if round == 0 {
                subject.tokens_per_second.clear();
            } else {
                subject.tokens_per_second.push(tokens_per_second);
                drafts.num_tokens += tokens;
                drafts.add(&before, &Drafts::of(&subject.handle));
            }
        }
    }
    let baseline = median(&subjects[0].tokens_per_second);
    let figures = subjects.iter().zip(drafts).map(|(subject, drafts)| {
        let num_tokens = drafts.num_tokens as f64;
        let tokens_per_second = median(&subject.tokens_per_second);
        let right = drafts.right.iter().sum::<u64>() as f64;
        Figure {
            workload: workload.name(),
            users: requests.len(),
            method: subject.method.as_ref().map_or("none".to_owned(), ToString::to_string),
            tokens_per_second,
            speed: tokens_per_second / baseline,
            acceptance: right / (drafts.tokens.max(1) as f64),
            acceptance_by_position: drafts.by_position(),
            drafts_per_token: drafts.tokens as f64 / num_tokens,
            tokens_per_step: num_tokens / (num_tokens - right),
        }
    });
    Ok(figures.collect())
}

/// What users share while all of them are busy.
#[derive(Default)]
struct Busy {
    num_tokens: AtomicU64,
    start: OnceLock<Instant>,
    end: OnceLock<Instant>,
}

/// Tokens a second while all users are busy, and their number: each asks again as soon as it is answered, from the first token
/// until somebody has had all turns. So it does not count how long the slowest is alone in the end.
fn run(handle: &EngineHandle, requests: &[Request], turns: usize) -> anyhow::Result<(f64, u64)> {
    let busy = Busy::default();
    std::thread::scope(|scope| {
        let busy = &busy;
        let ask = |request| scope.spawn(move || ask_again(handle, request, turns, busy));
        let users: Vec<_> = requests.iter().map(ask).collect();
        users.into_iter().try_for_each(|user| match user.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let start = busy.start.get().context("nothing was generated")?;
    let end = busy.end.get().context("nobody has ended")?;
    let num_tokens = busy.num_tokens.into_inner();
    Ok((num_tokens as f64 / (*end - *start).as_secs_f64(), num_tokens))
}

/// One user.
fn ask_again(
    handle: &EngineHandle,
    request: &Request,
    turns: usize,
    busy: &Busy,
) -> anyhow::Result<()> {
    for _ in 0..turns {
        let mut stream = handle.generate(request.clone())?;
        loop {
            let event = stream.blocking_next();
            if busy.end.get().is_some() {
                return Ok(());
            }
            match event {
                Some(StreamEvent::Token(_)) => {
                    busy.start.get_or_init(Instant::now);
                    busy.num_tokens.fetch_add(1, Ordering::Relaxed);
                }
                Some(StreamEvent::Finished(_)) => break,
                Some(_) => {}
                None => bail!("the engine has stopped"),
            }
        }
    }
    busy.end.get_or_init(Instant::now);
    Ok(())
}

impl Drafts {
    fn of(handle: &EngineHandle) -> Self {
        let stats = handle.stats().drafts;
        let (verified, tokens) = (stats.num_verified, stats.num_tokens);
        Self { num_tokens: 0, verified, tokens, right: stats.num_right }
    }

    fn add(&mut self, before: &Self, after: &Self) {
        self.verified += after.verified - before.verified;
        self.tokens += after.tokens - before.tokens;
        for (sum, (before, after)) in
            self.right.iter_mut().zip(before.right.iter().zip(&after.right))
        {
            *sum += after - before;
        }
    }

    /// A lower bound beyond the first: not every sequence had so many drafts.
    fn by_position(&self) -> Vec<f64> {
        let share = |&right: &u64| right as f64 / self.verified.max(1) as f64;
        let shares: Vec<f64> = self.right.iter().map(share).collect();
        let num_positions =
            shares.iter().rposition(|&share| share > 0.0).map_or(0, |last| last + 1);
        shares[..num_positions].to_vec()
    }
}

fn markdown(report: &Report) -> String {
    let columns = [
        "workload",
        "method",
        "users",
        "tok/s",
        "of none",
        "drafts a token",
        "right",
        "tokens a step",
        "right by position",
    ];
    let mut table = Table::new(&columns).with_text_columns(2);
    for figure in &report.figures {
        let by_position = figure.acceptance_by_position.iter().map(|&share| percent(share));
        table.row([
            figure.workload.to_owned(),
            figure.method.clone(),
            figure.users.to_string(),
            three_digits(figure.tokens_per_second),
            format!("{:.2}", figure.speed),
            format!("{:.2}", figure.drafts_per_token),
            percent(figure.acceptance),
            format!("{:.2}", figure.tokens_per_step),
            by_position.collect::<Vec<_>>().join(" "),
        ]);
    }
    format!(
        "{}{}\n{}, at most {} drafts\n\n{table}",
        report.run.header(),
        report.limits.table(),
        report.model,
        report.num_speculative_tokens,
    )
}
