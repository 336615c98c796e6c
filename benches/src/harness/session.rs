//! From the flags to an outcome: levels one after the other, rounds of two servers, or a search.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::args::Args;
use super::arrivals::schedule;
use super::baseline::Gate;
use super::compare::compare;
use super::failure::FailureKind;
use super::live::{Display, Live};
use super::measures::{Level, Load};
use super::objectives::Objectives;
use super::outcome::Outcome;
use super::runner::{Pace, run};
use super::search::Search;
use super::target::{Ask, Message, Target};
use super::text::for_terminal;
use super::workload::{Supply, WorkloadKind};
use crate::process::{open_files_limit, peak_memory};

/// Files that the client has open besides connections, about.
const OTHER_FILES: usize = 64;
/// Between two looks at a server that is starting.
const READY_PAUSE: Duration = Duration::from_millis(100);
/// Seconds of an open loop whose length nobody gave.
const DEFAULT_SECONDS: f64 = 30.0;

/// What is loaded, and what was made of it so far.
struct Session<'a> {
    args: &'a Args,
    objectives: Option<Objectives>,
    targets: Vec<Arc<Target>>,
    levels: Vec<Level>,
    /// Number of the next conversation: no two levels share prompts.
    next: u64,
    is_interrupted: bool,
}

/// Runs all that the flags ask for.
pub async fn execute(args: &Args) -> anyhow::Result<Outcome> {
    args.validate()?;
    let targets: Vec<Arc<Target>> = args.targets()?.into_iter().map(Arc::new).collect();
    let objectives = args.objectives()?;
    let mut session =
        Session { args, objectives, targets, levels: Vec::new(), next: 0, is_interrupted: false };
    if let Some(most) = session.most_connections() {
        check_files(most)?;
    }
    for target in session.targets.clone() {
        session.warm_up(&target).await?;
    }
    let mut searches = Vec::new();
    if args.find_rate {
        for target in session.targets.clone() {
            searches.push(session.search(&target).await?);
        }
    } else {
        session.rounds().await?;
    }
    let names: Vec<&str> =
        session.targets.iter().map(|target| target.options.name.as_str()).collect();
    let comparison = match names[..] {
        [a, b] if !args.find_rate => Some(compare(a, b, &session.levels)),
        _ => None,
    };
    let settings = args.settings();
    let gate = args
        .baseline
        .as_deref()
        .map(|path| Gate::check(path, &settings, &session.levels, args.tolerance));
    let mut outcome = Outcome::new(settings, objectives, session.levels);
    outcome.is_interrupted = session.is_interrupted;
    outcome.goodput_share = args.goodput_share;
    outcome.comparison = comparison;
    outcome.searches = searches;
    match gate {
        Some(Ok(gate)) => outcome.gate = Some(gate),
        // What was measured is shown all the same.
        Some(Err(error)) => outcome.gate_error = Some(format!("{error:#}")),
        None => {}
    }
    Ok(outcome)
}

impl Session<'_> {
    fn loads(&self) -> Vec<Load> {
        let args = self.args;
        if args.workload == WorkloadKind::Trace {
            vec![Load::default()]
        } else if args.rate.is_empty() {
            args.concurrency.iter().map(|&users| Load { users: Some(users), rate: None }).collect()
        } else {
            args.rate.iter().map(|&rate| Load { users: None, rate: Some(rate) }).collect()
        }
    }

    /// Most connections at once; `None` in an open loop without a limit.
    fn most_connections(&self) -> Option<usize> {
        let users = self.loads().into_iter().map(|load| load.users.or(self.args.max_concurrency));
        users.max().flatten()
    }

    /// Requests that do not count. The first must succeed: a run against a server that knows none of it would tell nothing.
    async fn warm_up(&mut self, target: &Arc<Target>) -> anyhow::Result<()> {
        let supply = self.args.workload().supply(self.next, self.args.warmup.max(1))?;
        for conversation in (0..self.args.warmup).filter_map(|index| supply.at(index)) {
            let turn = conversation.turns.first().context("a conversation without a turn")?;
            let messages = [Message { role: "user", content: turn.text.clone() }];
            let ask = Ask { messages: &messages, max_tokens: turn.max_tokens, keeps_text: false };
            let ready_by = Instant::now()
                + Duration::try_from_secs_f64(self.args.ready_timeout).unwrap_or_default();
            let answer = loop {
                let answer = target.ask(ask, Instant::now(), &Live::default()).await;
                let is_starting = matches!(&answer, Err(failure)
                    if [FailureKind::Unreachable, FailureKind::Unavailable].contains(&failure.kind));
                if !is_starting || Instant::now() >= ready_by {
                    break answer;
                }
                tokio::time::sleep(READY_PAUSE).await;
            };
            if let Err(failure) = answer {
                let told = for_terminal(&failure.to_string());
                bail!("{}: the first request, which is not counted: {told}", target.options.name);
            }
        }
        self.next += self.args.warmup as u64;
        Ok(())
    }

    async fn rounds(&mut self) -> anyhow::Result<()> {
        let rounds = if self.targets.len() > 1 { self.args.rounds } else { 1 };
        for load in self.loads() {
            for round in 0..rounds {
                let (first, mut end) = (self.next, self.next);
                for target in self.targets.clone() {
                    // Both servers get the same prompts at the same times.
                    self.next = first;
                    let seed = self.args.seed.unwrap_or(0) + round as u64;
                    let level = self.level(&target, load, self.args.duration, seed).await?;
                    self.levels.push(level);
                    end = end.max(self.next);
                    if self.is_interrupted {
                        return Ok(());
                    }
                }
                self.next = end;
            }
        }
        Ok(())
    }

    async fn level(
        &mut self,
        target: &Arc<Target>,
        load: Load,
        seconds: Option<f64>,
        seed: u64,
    ) -> anyhow::Result<Level> {
        let (supply, pace) = self.plan(load, seconds, seed)?;
        let supply = Arc::new(supply);
        let live = Arc::new(Live::default());
        let label = match self.targets.len() {
            1 => load.words(),
            _ => format!("{}, {}", target.options.name, load.words()),
        };
        let turns = supply.num_turns();
        let ends_by_time = matches!(pace, Pace::Closed { until: Some(_), .. });
        let display = Display::start(live.clone(), &label, (!ends_by_time).then_some(turns as u64));
        let run = run(target.clone(), supply.clone(), pace, live.clone()).await;
        self.next += supply.num_used() as u64;
        drop(display);
        self.is_interrupted |= live.stops();
        let mut level = Level::of(&target.options.name, load, &run, self.objectives.as_ref());
        level.peak_memory_bytes = self.args.pid.and_then(peak_memory);
        Ok(level)
    }

    fn plan(&self, load: Load, seconds: Option<f64>, seed: u64) -> anyhow::Result<(Supply, Pace)> {
        let args = self.args;
        let workload = args.workload();
        let max_running = args.max_concurrency;
        if let Some(users) = load.users {
            let supply = match args.requests {
                None if seconds.is_some() => workload.endless(self.next)?,
                num => workload.supply(self.next, num.unwrap_or(8.max(3 * users)))?,
            };
            let ramp_up = Duration::from_secs_f64(args.ramp_up);
            let until = seconds.map(Duration::from_secs_f64);
            return Ok((supply, Pace::Closed { users, ramp_up, until }));
        }
        let Some(rate) = load.rate else {
            let mut supply = workload.supply(0, args.requests.unwrap_or(usize::MAX))?;
            let limit = seconds.map_or(Duration::MAX, Duration::from_secs_f64);
            let times = supply.keep_until(args.speed, limit);
            return Ok((supply, Pace::Open { times, max_running }));
        };
        let expected = (rate * seconds.unwrap_or(DEFAULT_SECONDS)).ceil().max(1.0) as usize;
        let num = args.requests.unwrap_or(expected);
        let supply = workload.supply(self.next, num)?;
        Ok((supply, Pace::Open { times: schedule(num, rate, args.burstiness, seed), max_running }))
    }

    async fn search(&mut self, target: &Arc<Target>) -> anyhow::Result<Search> {
        let mut search = Search::new(&target.options.name, self.args.goodput_share);
        let start = self.args.rate.first().copied().unwrap_or(1.0);
        let seconds = self.args.duration.unwrap_or(DEFAULT_SECONDS);
        while let Some(rate) = search.next(start) {
            let load = Load { users: None, rate: Some(rate) };
            let seed = self.args.seed.unwrap_or(0) + search.probes.len() as u64;
            let level = self.level(target, load, Some(seconds), seed).await?;
            search.tell(rate, &level, seconds, self.args.allow_late);
            // What says nothing of the server is no result, unless it is all there is.
            if !search.was_void() || search.next(start).is_none() {
                self.levels.push(level);
            }
            if self.is_interrupted {
                break;
            }
        }
        Ok(search)
    }
}

/// Whether this process may open a connection for each user.
fn check_files(connections: usize) -> anyhow::Result<()> {
    let wanted = (connections + OTHER_FILES) as u64;
    let most = open_files_limit().unwrap_or(u64::MAX);
    ensure!(
        most >= wanted,
        "{connections} users need {wanted} open files, this process may have {most}: raise it (ulimit -n {wanted}), or take several clients"
    );
    Ok(())
}
