//! An outcome as one page of HTML that needs nothing else: verdict, figures, plots, tables.
//!
//! All text of servers and of the command line passes [`for_html`]; the page has no script and asks no network.

mod plot;
mod plots;
mod tables;

use std::fmt::Write as _;

use super::compare::Ratio;
use super::lag::Validity;
use super::measures::{Level, mean_of};
use super::outcome::{Outcome, Tone};
use super::text::for_html;
use crate::report::{percent, three_digits};

/// Most levels that get a line of their own; a page stays below 1 MB.
const MAX_LEVELS: usize = 60;

/// The levels of one server at one load: several where rounds were measured.
pub(super) struct Group<'a> {
    pub target: &'a str,
    pub levels: Vec<&'a Level>,
}

impl<'a> Group<'a> {
    fn first(&self) -> &'a Level {
        self.levels[0]
    }

    pub fn mean(&self, of: fn(&Level) -> f64) -> f64 {
        mean_of(&self.levels, of)
    }

    /// "32 users", with the server's name where there are two.
    pub fn name(&self, has_two: bool) -> String {
        let load = self.first().load.words();
        if has_two { format!("{}, {load}", self.target) } else { load }
    }
}

/// Groups in the order in which they were measured first.
pub(super) fn groups(outcome: &Outcome) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for level in &outcome.levels {
        let is_same = |group: &&mut Group<'_>| {
            group.target == level.target && group.first().load == level.load
        };
        match groups.iter_mut().find(is_same) {
            Some(group) => group.levels.push(level),
            None => groups.push(Group { target: &level.target, levels: vec![level] }),
        }
    }
    groups.truncate(MAX_LEVELS);
    groups
}

/// The whole page.
pub fn page(outcome: &Outcome) -> String {
    let groups = groups(outcome);
    let mut html = String::with_capacity(1 << 17);
    head(&mut html, outcome);
    verdict(&mut html, outcome);
    tiles(&mut html, outcome, &groups);
    plots::section(&mut html, outcome, &groups);
    tables::sections(&mut html, outcome, &groups);
    html += "</main></body></html>\n";
    html
}

fn head(html: &mut String, outcome: &Outcome) {
    let mut targets: Vec<&str> = Vec::new();
    for level in &outcome.levels {
        if !targets.contains(&level.target.as_str()) {
            targets.push(&level.target);
        }
    }
    let title = for_html(&targets.join(" and "));
    let (class, word) = match outcome.validity {
        Validity::Valid => ("good", "valid"),
        Validity::Marked => ("neutral", "valid, client somewhat late"),
        Validity::Invalid => ("bad", "INVALID"),
    };
    let style = include_str!("style.css");
    let _ = write!(
        html,
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>{title} under load</title><style>{style}</style></head><body><main>\
         <header><h1>{title} under load</h1><span class=muted>{}</span><span class=\"badge {class}\">{word}</span></header>",
        for_html(&outcome.run.date),
    );
}

fn verdict(html: &mut String, outcome: &Outcome) {
    let (tone, words) = outcome.headline();
    let class = match tone {
        Tone::Good => "good",
        Tone::Neutral => "neutral",
        Tone::Bad => "bad",
    };
    let objectives = outcome.objectives.map(|objectives| {
        format!(
            "<small>Objectives: {} for {} of the requests</small>",
            objectives.words(),
            percent(outcome.goodput_share)
        )
    });
    let _ = write!(
        html,
        "<div class=\"verdict {class}\"><p>{}</p>{}</div>",
        // Flags are names of settings here: they are not broken at their hyphens.
        for_html(&words).replace("--", "\u{2011}\u{2011}"),
        objectives.unwrap_or_default()
    );
    for warning in outcome.warnings() {
        let class = if warning.starts_with("This client") { "warning light" } else { "warning" };
        let _ = write!(html, "<p class=\"{class}\">{}</p>", for_html(&warning));
    }
}

/// One figure in large type. `more`: a second line.
fn tile(html: &mut String, name: &str, value: &str, unit: &str, more: &str) {
    let _ = write!(
        html,
        "<div class=tile><span>{name}</span><b>{value} <small>{unit}</small></b><em>{more}</em></div>"
    );
}

/// The figures of the load with the most tokens a second; of two servers, both and their ratio.
fn tiles(html: &mut String, outcome: &Outcome, groups: &[Group<'_>]) {
    let rate = |group: &&Group<'_>| group.mean(|level| level.output_tokens_per_second);
    let Some(best) = groups.iter().max_by(|a, b| rate(a).total_cmp(&rate(b))) else { return };
    if let Some(comparison) = &outcome.comparison {
        let load = comparison.load().unwrap_or(best.first().load);
        let (a, b) = (for_html(&comparison.a), for_html(&comparison.b));
        let _ = write!(html, "<h2>{a} → {b}, {}</h2><div class=tiles>", load.words());
        for ratio in comparison.ratios.iter().filter(|ratio| ratio.load == load) {
            let figures = format!("{} → {}", three_digits(ratio.a), three_digits(ratio.b));
            let class = tables::class_of(ratio.winner);
            let value = format!("<i class={class}>{:.3}×</i>", ratio.ratio);
            tile(html, &ratio.quantity, &value, "", &format!("{figures}{}", interval_words(ratio)));
        }
        *html += "</div>";
        return;
    }
    let _ = write!(html, "<h2>At {}</h2><div class=tiles>", best.first().load.words());
    let level = best.first();
    let per_request = format!("{} req/s", three_digits(level.requests_per_second));
    tile(html, "Throughput", &three_digits(level.output_tokens_per_second), "tok/s", &per_request);
    let latencies = [
        ("Time to first token", &level.ttft),
        ("Time per token", &level.tpot),
        ("Between chunks", &level.itl),
        ("Whole request", &level.e2e),
    ];
    for (name, summary) in latencies {
        tile(
            html,
            name,
            &three_digits(summary.p50),
            "ms p50",
            &format!("{} ms p99", three_digits(summary.p99)),
        );
    }
    if let Some(goodput) = &level.goodput {
        let more = format!("{} req/s", three_digits(goodput.requests_per_second));
        tile(html, "Kept the objectives", &percent(goodput.share), "", &more);
    }
    let class = if level.failures > 0 { "bad" } else { "good" };
    let failed = format!("<i class={class}>{}</i>", level.failures);
    tile(html, "Failed", &failed, "", &format!("of {} requests", level.requests));
    *html += "</div>";
}

fn interval_words(ratio: &Ratio) -> String {
    ratio.interval.map_or(String::new(), |(low, high)| format!("<br>95%: {low:.3} to {high:.3}"))
}
