//! An outcome as text for a terminal or a log: markdown, without colour.

use std::fmt::Write as _;

use super::compare::{Comparison, Winner};
use super::measures::Level;
use super::outcome::Outcome;
use super::search::Search;
use super::text::for_terminal;
use crate::report::{Table, percent, three_digits};

/// All of it, verdict last: that is what a terminal still shows.
pub fn text(outcome: &Outcome) -> String {
    let mut text = outcome.run.header();
    let _ = writeln!(text, "{}\nTimes in ms.", levels(outcome));
    for level in &outcome.levels {
        text += &failures(level);
    }
    if let Some(comparison) = &outcome.comparison {
        let _ = write!(text, "\n{}", ratios(comparison));
    }
    for search in &outcome.searches {
        let _ = write!(text, "\n{}", probes(search));
    }
    if let Some(gate) = &outcome.gate {
        let mut table =
            Table::new(&["quantity", "load", "then", "now", "ratio", ""]).with_text_columns(2);
        for check in &gate.checks {
            let verdict = if check.is_worse { "worse" } else { "" };
            let figures = [check.then, check.now].map(three_digits);
            let cells = [check.quantity.clone(), check.load.words()].into_iter().chain(figures);
            table.row(cells.chain([format!("{:.3}", check.ratio), verdict.to_owned()]));
        }
        let _ = write!(text, "\n{table}");
    }
    for warning in outcome.warnings() {
        let _ = writeln!(text, "\n{warning}");
    }
    let _ = writeln!(text, "\n{}", for_terminal(&outcome.headline().1));
    text
}

fn levels(outcome: &Outcome) -> Table {
    let columns = [
        "server",
        "load",
        "requests",
        "failed",
        "req/s",
        "out tok/s",
        "prompt tok",
        "TTFT mean",
        "p50",
        "p99",
        "ITL mean",
        "p50",
        "p99",
        "TPOT mean",
        "p50",
        "p99",
        "E2E mean",
        "p99",
        "goodput",
        "at once",
        "client late p99",
        "peak MiB",
    ];
    let mut table = Table::new(&columns).with_text_columns(2);
    for level in &outcome.levels {
        let Level { ttft, itl, tpot, e2e, .. } = level;
        let counts = [level.requests.to_string(), level.failures.to_string()];
        let rates =
            [level.requests_per_second, level.output_tokens_per_second, level.prompt_tokens];
        let times = [
            ttft.mean, ttft.p50, ttft.p99, itl.mean, itl.p50, itl.p99, tpot.mean, tpot.p50,
            tpot.p99, e2e.mean, e2e.p99,
        ];
        let late = level.client.lag.p99.max(level.client.dispatch.p99);
        let memory = level.peak_memory_bytes;
        let rest = [
            level.goodput.map_or("-".to_owned(), |goodput| percent(goodput.share)),
            three_digits(level.mean_running),
            three_digits(late),
            memory.map_or("-".to_owned(), |bytes| (bytes >> 20).to_string()),
        ];
        let names = [for_terminal(&level.target), level.load.words()];
        let figures = rates.into_iter().chain(times).map(three_digits);
        table.row(names.into_iter().chain(counts).chain(figures).chain(rest));
    }
    table
}

/// What went wrong, by kind, with the first one's words.
fn failures(level: &Level) -> String {
    let Some(first) = &level.first_failure else { return String::new() };
    let kinds =
        level.failures_by_kind.iter().map(|(kind, count)| format!("{count} {}", kind.words()));
    let kinds: Vec<String> = kinds.collect();
    let load = level.load.words();
    format!("\n{load}: {}. The first: {}\n", kinds.join(", "), for_terminal(first))
}

fn ratios(comparison: &Comparison) -> Table {
    let (a, b) = (for_terminal(&comparison.a), for_terminal(&comparison.b));
    let mut table = Table::new(&["quantity", "load", &a, &b, "ratio", "95% interval", "better"])
        .with_text_columns(2);
    for ratio in &comparison.ratios {
        let interval =
            ratio.interval.map_or("-".to_owned(), |(low, high)| format!("{low:.3} to {high:.3}"));
        let better = match ratio.winner {
            Winner::A => a.clone(),
            Winner::B => b.clone(),
            Winner::NotShown => "not shown".to_owned(),
        };
        let figures = [ratio.a, ratio.b].map(three_digits);
        let cells = [ratio.quantity.clone(), ratio.load.words()].into_iter().chain(figures);
        table.row(cells.chain([format!("{:.3}", ratio.ratio), interval, better]));
    }
    table
}

fn probes(search: &Search) -> Table {
    let mut table = Table::new(&["rate", "kept by", "missed"]).with_text_columns(0);
    for probe in &search.probes {
        let missed = probe.missed.clone().unwrap_or_default();
        table.row([format!("{:.3}", probe.rate), format!("{:.1}%", 100.0 * probe.share), missed]);
    }
    table
}
