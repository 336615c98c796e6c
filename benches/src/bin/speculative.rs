//! Times speculative decoding against none, in this process: workloads of several kinds, users at once, methods in turn.

use std::path::PathBuf;
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
    verified: u64,
    tokens: u64,
    right: [u64; MAX_DRAFTS as usize],
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.users.contains(&0) || args.output_tokens < 2 || args.rounds == 0 {
        bail!("--users and --rounds must be at least 1, --output-tokens 2");
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
        method,
        num_tokens: args.num_speculative_tokens,
        is_adaptive: !args.speculative_always,
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
            let tokens_per_second = run(&subject.handle, requests)?;
            if round == 0 {
                subject.tokens_per_second.clear();
            } else {
                subject.tokens_per_second.push(tokens_per_second);
                drafts.add(&before, &Drafts::of(&subject.handle));
            }
        }
    }
    let baseline = median(&subjects[0].tokens_per_second);
    let num_tokens = (args.rounds * requests.len() * args.output_tokens) as f64;
    let figures = subjects.iter().zip(drafts).map(|(subject, drafts)| {
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

/// Tokens a second of all requests together, from the first token of the first until all have ended.
fn run(handle: &EngineHandle, requests: &[Request]) -> anyhow::Result<f64> {
    let generate = |request: &Request| handle.generate(request.clone());
    let mut streams = requests.iter().map(generate).collect::<Result<Vec<_>, _>>()?;
    let (mut start, mut num_tokens) = (None, 0);
    for stream in &mut streams {
        loop {
            match stream.blocking_next() {
                Some(StreamEvent::Token(_)) => {
                    start.get_or_insert_with(Instant::now);
                    num_tokens += 1;
                }
                Some(
                    StreamEvent::Started(_) | StreamEvent::Drafts(_) | StreamEvent::Embedding(_),
                ) => {}
                Some(StreamEvent::Finished(_)) => break,
                None => bail!("the engine has stopped"),
            }
        }
    }
    let seconds = start.context("nothing was generated")?.elapsed().as_secs_f64();
    Ok(f64::from(num_tokens) / seconds)
}

impl Drafts {
    fn of(handle: &EngineHandle) -> Self {
        let stats = handle.stats().drafts;
        Self { verified: stats.num_verified, tokens: stats.num_tokens, right: stats.num_right }
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
