//! The flags of quire-bench.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use clap::Parser;
use serde_json::{Map, Value, json};

use super::objectives::Objectives;
use super::target::{Api, Target, TargetOptions, Trust};
use super::workload::{Lengths, Workload, WorkloadKind};
use crate::http::BaseUrl;
use crate::prompts::OVERHEAD_TOKENS;

/// Load a server as people would, and say how it bears it. Two --base-url: both in turn, side by side.
///
/// Ends with 1 after an error or when nothing was answered, 3 after a regression, 4 when this client was too late for its figures
/// to be the server's.
#[derive(Clone, Debug, Parser)]
#[command(name = "quire-bench")]
pub struct Args {
    /// Where the server is, with or without /v1; twice for two servers side by side
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    pub base_url: Vec<String>,

    /// What to call it in reports [default: its host and port]
    #[arg(long, allow_hyphen_values = true)]
    pub name: Vec<String>,

    /// What it speaks
    #[arg(long, value_enum, default_value_t = Api::Chat)]
    pub api: Api,

    /// The model's name in requests; twice where two servers call it differently
    #[arg(long, default_value = "default")]
    pub model: Vec<String>,

    /// Key of the server [environment: OPENAI_API_KEY]
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,

    /// PEM file with the certificates that may vouch for https servers [default: the well-known authorities]
    #[arg(long)]
    pub ca: Option<PathBuf>,

    /// Closed loop: users at once, one level after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 32, 64])]
    pub concurrency: Vec<usize>,

    /// Open loop: requests a second, one level after the other
    #[arg(long, value_delimiter = ',', conflicts_with = "concurrency")]
    pub rate: Vec<f64>,

    /// Open loop: shape of the gaps; 1 is Poisson, less is burstier, more is smoother, inf is even
    #[arg(long, default_value_t = 1.0)]
    pub burstiness: f64,

    /// Open loop: most requests under way at once; those that wait for a place wait in their latencies
    #[arg(long)]
    pub max_concurrency: Option<usize>,

    /// Look for the highest rate that keeps --goodput, beginning at --rate
    #[arg(long, requires = "goodput")]
    pub find_rate: bool,

    /// Requests of a level [default: three a user, at least 8; in an open loop what comes in --duration]
    #[arg(long)]
    pub requests: Option<usize>,

    /// Seconds in which requests begin [default: 30 in an open loop]
    #[arg(long)]
    pub duration: Option<f64>,

    /// Closed loop: seconds over which the users begin, one after the other
    #[arg(long, default_value_t = 0.0)]
    pub ramp_up: f64,

    /// Rounds of two servers in turn
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,

    /// What is asked
    #[arg(long, value_enum, default_value_t = WorkloadKind::Random)]
    pub workload: WorkloadKind,

    /// File with conversations or a trace
    #[arg(long)]
    pub input: Option<PathBuf>,

    /// Times of a trace are divided by this
    #[arg(long, default_value_t = 1.0)]
    pub speed: f64,

    /// Tokens of a prompt, about
    #[arg(long, default_value_t = 128)]
    pub prompt_tokens: usize,

    /// Words of a prompt, exactly, in place of --prompt-tokens
    #[arg(long)]
    pub prompt_words: Option<usize>,

    /// Tokens of an answer
    #[arg(long, default_value_t = 128)]
    pub max_tokens: usize,

    /// Lengths vary evenly by this share
    #[arg(long, default_value_t = 0.0)]
    pub range_ratio: f64,

    /// Turns of a conversation (--workload turns)
    #[arg(long, default_value_t = 4)]
    pub turns: usize,

    /// Different beginnings of prompts (--workload prefix)
    #[arg(long, default_value_t = 8)]
    pub prefixes: usize,

    /// Words of such a beginning
    #[arg(long, default_value_t = 512)]
    pub prefix_words: usize,

    /// Answers may end before --max-tokens
    #[arg(long)]
    pub stop_at_end: bool,

    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,

    /// JSON object of more fields for each request's body, over HTTP; twice where the two differ (one server may be given twice)
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub extra_body: Vec<Map<String, Value>>,

    /// Another number gives other prompts, lengths and times [default: the lengths and times of 0, prompts of their own in every run]
    #[arg(long)]
    pub seed: Option<u64>,

    #[arg(skip = number_of_this_run())]
    nonce: u64,

    /// What a request must keep, in milliseconds: ttft:200 tpot:50 e2el:5000
    #[arg(long, num_args = 1..)]
    pub goodput: Vec<String>,

    /// Share of the requests that must keep --goodput
    #[arg(long, default_value_t = 0.99)]
    pub goodput_share: f64,

    /// Requests before the first level that do not count
    #[arg(long, default_value_t = 1)]
    pub warmup: usize,

    /// Seconds to wait until the server answers at all
    #[arg(long, default_value_t = 0.0)]
    pub ready_timeout: f64,

    /// Seconds of silence after which a request has failed
    #[arg(long, default_value_t = 120.0)]
    pub timeout: f64,

    /// Seconds after which a request has failed, silent or not
    #[arg(long, default_value_t = 1800.0)]
    pub request_timeout: f64,

    /// The server's process, to report the memory of it and its children
    #[arg(long)]
    pub pid: Option<u32>,

    /// End with 0 even where this client was too late; the report says so all the same
    #[arg(long)]
    pub allow_late: bool,

    /// Threads of this client [default: as many as processors, at most 4]
    #[arg(long)]
    pub threads: Option<usize>,

    /// Also write the report as JSON to this file
    #[arg(long)]
    pub json: Option<PathBuf>,

    /// Also write the report as one page of HTML to this file
    #[arg(long)]
    pub html: Option<PathBuf>,

    /// JSON of an earlier run of the same settings: what is worse than then ends with 3
    #[arg(long)]
    pub baseline: Option<PathBuf>,

    /// How much worse than --baseline is still equal; twice as much for 99th percentiles
    #[arg(long, default_value_t = 0.1)]
    pub tolerance: f64,
}

impl Args {
    /// What no single flag can say of itself.
    pub fn validate(&self) -> anyhow::Result<()> {
        let is_positive = |value: f64| value > 0.0 && value.is_finite();
        ensure!(!self.concurrency.contains(&0), "--concurrency must be at least 1");
        ensure!(self.rate.iter().all(|&rate| is_positive(rate)), "--rate must be above 0");
        ensure!(self.burstiness > 0.0, "--burstiness must be above 0");
        ensure!(self.duration.is_none_or(is_positive), "--duration must be above 0");
        ensure!(is_positive(self.speed), "--speed must be above 0");
        ensure!(
            (0.0..1.0).contains(&self.range_ratio),
            "--range-ratio must be at least 0 and below 1"
        );
        ensure!(
            self.goodput_share > 0.0 && self.goodput_share <= 1.0,
            "--goodput-share must be above 0, at most 1"
        );
        ensure!(self.requests != Some(0), "--requests must be at least 1");
        ensure!(self.max_tokens > 0, "--max-tokens must be at least 1");
        ensure!(self.rounds > 0, "--rounds must be at least 1");
        ensure!(self.max_concurrency != Some(0), "--max-concurrency must be at least 1");
        ensure!(self.base_url.len() <= 2, "--base-url: one server, or two side by side");
        ensure!(
            is_positive(self.timeout) && is_positive(self.request_timeout),
            "--timeout must be above 0"
        );
        ensure!((0.0..1e6).contains(&self.ramp_up), "--ramp-up must be at least 0");
        ensure!(self.tolerance >= 0.0, "--tolerance must be at least 0");
        ensure!(
            self.extra_body.is_empty() || self.api != Api::Grpc,
            "--extra-body: bodies of HTTP have fields, --api grpc has none"
        );
        Ok(())
    }

    pub fn objectives(&self) -> anyhow::Result<Option<Objectives>> {
        Objectives::parse(&self.goodput)
    }

    pub fn targets(&self) -> anyhow::Result<Vec<Target>> {
        let trust = self.ca.as_deref().map_or_else(|| Ok(Trust::well_known()), Trust::of_file)?;
        let options = self.base_url.iter().enumerate().map(|(index, url)| {
            let url = BaseUrl::parse(url).context("--base-url")?;
            let default_name = match self.base_url.len() {
                1 => url.authority().to_owned(),
                _ => format!("{} {}", ["A", "B"][index], url.authority()),
            };
            let options = TargetOptions {
                name: self.name.get(index).cloned().unwrap_or(default_name),
                api: self.api,
                url,
                trust: trust.clone(),
                model: self.model.get(index).or(self.model.last()).cloned().unwrap_or_default(),
                key: self.api_key.clone(),
                temperature: self.temperature,
                ignores_end: !self.stop_at_end,
                extra: self.extra_body.get(index).or(self.extra_body.last()).cloned(),
                silence: Duration::from_secs_f64(self.timeout),
                whole: Duration::from_secs_f64(self.request_timeout),
            };
            anyhow::Ok(Target::new(options))
        });
        let targets: Vec<Target> = options.collect::<anyhow::Result<_>>()?;
        if let [a, b] = &targets[..] {
            ensure!(a.options.name != b.options.name, "--name: two servers need two names");
        }
        Ok(targets)
    }

    pub fn workload(&self) -> Workload {
        let default_words = self.prompt_tokens.saturating_sub(OVERHEAD_TOKENS).max(1);
        let prompt = self.prompt_words.unwrap_or(default_words);
        Workload {
            kind: self.workload,
            input: self.input.clone(),
            lengths: Lengths { prompt, output: self.max_tokens, spread: self.range_ratio },
            turns: self.turns,
            prefixes: self.prefixes,
            prefix_words: self.prefix_words,
            seed: self.seed.unwrap_or(0),
            salt: self.seed.map_or(self.nonce, |seed| seed.wrapping_mul(1_000_003) % (1 << 40)),
        }
    }

    /// What must be equal for two runs to be comparable, as a report names it.
    pub fn settings(&self) -> Vec<(String, String)> {
        let workload = self.workload();
        let mut settings = vec![
            ("API", format!("{:?}", self.api).to_lowercase()),
            ("workload", format!("{:?}", self.workload).to_lowercase()),
            ("prompt words", workload.lengths.prompt.to_string()),
            ("answer tokens", self.max_tokens.to_string()),
            ("spread of lengths", self.range_ratio.to_string()),
            ("temperature", self.temperature.to_string()),
            ("answers end early", self.stop_at_end.to_string()),
            ("seed", self.seed.map_or("none".to_owned(), |seed| seed.to_string())),
        ];
        let is_open = !self.rate.is_empty();
        settings.extend(is_open.then(|| ("burstiness", self.burstiness.to_string())));
        settings.extend((self.ramp_up > 0.0).then(|| ("ramp-up", self.ramp_up.to_string())));
        settings.extend(self.max_concurrency.map(|most| ("most at once", most.to_string())));
        settings.extend(self.requests.map(|requests| ("requests", requests.to_string())));
        settings.extend(self.duration.map(|seconds| ("seconds", seconds.to_string())));
        match self.workload {
            WorkloadKind::Turns => settings.push(("turns", self.turns.to_string())),
            WorkloadKind::Prefix => settings
                .push(("prefixes", format!("{} of {} words", self.prefixes, self.prefix_words))),
            WorkloadKind::Trace => settings.push(("speed", self.speed.to_string())),
            WorkloadKind::Random | WorkloadKind::Sharegpt => {}
        }
        let file = self.input.as_deref().and_then(|path| path.file_name());
        settings
            .extend(self.extra_body.iter().map(|extra| ("extra body", json!(extra).to_string())));
        settings.extend(file.map(|name| ("input", name.to_string_lossy().into_owned())));
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("no JSON object: {error}"))
}

/// Where the numbers of this run's prompts begin: by the second, so that no server has them in its prefix cache from the run before.
fn number_of_this_run() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() % 100_000 * 100_000
}
