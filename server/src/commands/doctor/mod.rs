//! `quire doctor`: what could fail without a word, looked at before it does. The same checks are metrics of a server.

mod clock;
mod disk;
mod gpu;
mod machine;
mod memory;
mod network;
pub(crate) mod watch;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Result, ensure};
use quire_engine::{Machine, MemoryPlan};
use quire_server::store::Store;
use serde::Serialize;

use super::model;
use crate::args::{CommonOptions, DoctorArgs};

type Check = (&'static str, fn(&Surroundings) -> Finding);

/// Every check: its name, which is its label in metrics too, and what it does.
const CHECKS: &[Check] = &[
    ("disk", disk::space),
    ("model_files", disk::model_files),
    ("memory", memory::plan),
    ("processors", machine::processors),
    ("huge_pages", machine::huge_pages),
    ("numa", machine::numa),
    ("gpu", gpu::driver),
    ("ports", network::ports),
    ("open_files", network::open_files),
    ("clock", clock::clock),
];

/// How something is. The number is that of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Ok = 0,
    Warning = 1,
    Failing = 2,
}

/// What a check found, in a sentence that says what to do where something is to be done.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    status: Status,
    message: String,
}

impl Finding {
    fn ok(message: impl Into<String>) -> Self {
        Self { status: Status::Ok, message: message.into() }
    }

    fn warning(message: impl Into<String>) -> Self {
        Self { status: Status::Warning, message: message.into() }
    }

    fn failing(message: impl Into<String>) -> Self {
        Self { status: Status::Failing, message: message.into() }
    }

    /// The worst of several, or else that all is well.
    fn worst(findings: Vec<Self>, well: impl Into<String>) -> Self {
        let worst = findings.into_iter().max_by_key(|finding| finding.status);
        worst.filter(|finding| finding.status > Status::Ok).unwrap_or_else(|| Self::ok(well))
    }
}

type Planned = Result<(u64, usize), String>;

/// What the checks look at.
pub(crate) struct Surroundings {
    /// Above `proc` and `sys`: `/`, but for tests.
    root: PathBuf,
    models_dir: PathBuf,
    stores: Vec<Store>,
    /// Bytes that the model takes by its plan, and threads that compute, or why it has none; `None`: no model is named.
    plan: Option<Planned>,
    /// Where a server is to listen; none where it does already.
    listens: Vec<(String, u16)>,
    max_connections: usize,
    /// Read whole files to compare their sums.
    reads_all: bool,
    now: SystemTime,
}

impl Surroundings {
    /// This machine, before a server starts.
    fn new(args: &DoctorArgs, options: &CommonOptions) -> Result<Self> {
        let plan = match &args.model {
            None => None,
            Some(name) => {
                let (_, files) =
                    model::open_named((Some(name), args.engine.load_format()), options)?;
                let plan = MemoryPlan::new(&files, &args.engine.resolve(), &Machine::detect());
                let plan = plan.map_err(|error| format!("{error:#}"));
                Some(plan.map(|plan| (plan.total_bytes(), plan.config.threads)))
            }
        };
        Ok(Self {
            root: PathBuf::from("/"),
            models_dir: options.models_dir.clone(),
            stores: model::stores(options),
            plan,
            listens: args.ports.iter().map(|&port| (args.host.clone(), port)).collect(),
            max_connections: args.max_connections,
            reads_all: !args.quick,
            now: SystemTime::now(),
        })
    }

    /// This machine while a server runs: nothing is read that takes long.
    pub(crate) fn of_server(
        options: &CommonOptions,
        plan: Option<Planned>,
        max_connections: usize,
    ) -> Self {
        Self {
            root: PathBuf::from("/"),
            models_dir: options.models_dir.clone(),
            stores: model::stores(options),
            plan,
            listens: Vec::new(),
            max_connections,
            reads_all: false,
            now: SystemTime::now(),
        }
    }

    /// A small file below `root`, without the spaces around.
    fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned())
    }

    /// A line of `/proc/meminfo`, in bytes or a count.
    fn meminfo(&self, field: &str) -> Option<u64> {
        let text = self.text("proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        let mut words = line.split_whitespace();
        let number: u64 = words.next()?.parse().ok()?;
        let unit = if words.next() == Some("kB") { 1024 } else { 1 };
        number.checked_mul(unit)
    }

    fn examine(&self) -> Vec<(&'static str, Finding)> {
        CHECKS.iter().map(|&(name, check)| (name, check(self))).collect()
    }
}

/// One check as JSON.
#[derive(Serialize)]
struct Line<'a> {
    check: &'a str,
    #[serde(flatten)]
    finding: &'a Finding,
}

/// Prints a line for each check. An error if one fails.
pub(crate) fn run(args: &DoctorArgs, options: &CommonOptions) -> Result<()> {
    let findings = Surroundings::new(args, options)?.examine();
    if args.json {
        let lines: Vec<Line<'_>> =
            findings.iter().map(|(check, finding)| Line { check, finding }).collect();
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        for (name, finding) in &findings {
            let word = match finding.status {
                Status::Ok => "ok",
                Status::Warning => "warning",
                Status::Failing => "FAILING",
            };
            println!("{name:12} {word:8} {}", finding.message);
        }
    }
    let num_failing = findings.iter().filter(|(_, it)| it.status == Status::Failing).count();
    ensure!(num_failing == 0, "{num_failing} of {} checks fail", findings.len());
    Ok(())
}

#[cfg(test)]
mod tests;
