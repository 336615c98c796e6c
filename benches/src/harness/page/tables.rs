//! The tables of the page: ratios, loads, failures, settings, definitions.

use std::fmt::Write as _;

use super::{Group, Outcome};
use crate::harness::compare::{Comparison, Ratio, Winner};
use crate::harness::measures::Level;
use crate::harness::text::for_html;
use crate::report::{percent, three_digits};

const DEFINITIONS: [(&str, &str); 9] = [
    (
        "Time to first token",
        "TTFT: from when a request was meant to be sent until its first chunk with content. In a closed loop that is when it was sent.",
    ),
    (
        "Time per token",
        "TPOT: (whole request − TTFT) / (tokens − 1) of each request with two tokens or more.",
    ),
    ("Between chunks", "ITL: every gap between chunks with content, of all requests together."),
    (
        "Whole request",
        "E2E: from when a request was meant to be sent until its last chunk with content.",
    ),
    (
        "Throughput",
        "All output tokens, as the server's usage counts them, over the time from the first request to the end of the last.",
    ),
    (
        "Kept the objectives",
        "Goodput: requests that kept every objective. Failed requests keep none.",
    ),
    ("Failed requests", "Are in no latency."),
    (
        "Client late",
        "99th percentile of how late this client noted its own ticks or sent its requests. A run is invalid where that is more than 5 ms and 5% of the median TTFT.",
    ),
    ("95%", "Interval of Student's t over the logarithms of the rounds' ratios."),
];

pub(super) fn sections(html: &mut String, outcome: &Outcome, groups: &[Group<'_>]) {
    if let Some(comparison) = &outcome.comparison {
        ratios(html, comparison);
    }
    if let Some(gate) = &outcome.gate {
        let _ = write!(
            html,
            "<h2>Against the baseline</h2><div class=scroll><table><tr><th class=text>quantity<th class=text>load<th>then<th>now<th>ratio<th>allowed<th class=text></tr>"
        );
        for check in &gate.checks {
            let (class, word) = if check.is_worse { ("bad", "worse") } else { ("good", "kept") };
            let (then, now) = (three_digits(check.then), three_digits(check.now));
            let _ = write!(
                html,
                "<tr><td class=text>{}<td class=text>{}<td>{then}<td>{now}<td class={class}>{:.3}<td>±{}<td class=\"text {class}\">{word}</tr>",
                for_html(&check.quantity),
                check.load.words(),
                check.ratio,
                percent(check.allowed)
            );
        }
        *html += "</table></div>";
    }
    levels(html, groups);
    failures(html, &outcome.levels);
    let _ = write!(
        html,
        "<details open><summary>Settings</summary><dl><dt>command<dd><code>{}</code>",
        for_html(&outcome.run.command)
    );
    for (name, value) in &outcome.settings {
        let _ = write!(html, "<dt>{}<dd>{}", for_html(name), for_html(value));
    }
    let sample =
        outcome.levels.iter().map(|level| level.sample.trim()).find(|sample| !sample.is_empty());
    if let Some(sample) = sample {
        let _ = write!(html, "<dt>an answer begins<dd>{}", for_html(sample));
    }
    *html += "</dl></details><details><summary>What the words mean</summary><dl>";
    for (name, words) in DEFINITIONS {
        let _ = write!(html, "<dt>{name}<dd>{words}");
    }
    *html += "</dl><p>Definitions are those of vLLM's benchmark, but for the time from which an open loop counts.</p></details>";
}

pub(super) fn class_of(winner: Winner) -> &'static str {
    match winner {
        Winner::B => "good",
        Winner::A => "bad",
        Winner::NotShown => "muted",
    }
}

fn ratios(html: &mut String, comparison: &Comparison) {
    let (a, b) = (for_html(&comparison.a), for_html(&comparison.b));
    let _ = write!(
        html,
        "<h2>Side by side: {} rounds in turn</h2><div class=scroll><table><tr><th class=text>quantity<th class=text>load<th>{a}<th>{b}<th>ratio<th>95% interval<th class=text>½ &nbsp; to &nbsp; 2<th class=text>better</tr>",
        comparison.rounds
    );
    for ratio in &comparison.ratios {
        let class = class_of(ratio.winner);
        let better = match ratio.winner {
            Winner::A => &a,
            Winner::B => &b,
            Winner::NotShown => "not shown",
        };
        let interval =
            ratio.interval.map_or("–".to_owned(), |(low, high)| format!("{low:.3} to {high:.3}"));
        let figures = [ratio.a, ratio.b].map(three_digits);
        let _ = write!(
            html,
            "<tr><td class=text>{}<td class=text>{}<td>{}<td>{}<td class={class}>{:.3}<td>{interval}<td class=forest>{}<td class=\"text {class}\">{better}</tr>",
            ratio.quantity,
            ratio.load.words(),
            figures[0],
            figures[1],
            ratio.ratio,
            forest(ratio)
        );
    }
    *html += "</table></div>";
}

/// The interval as a bar around 1, from a half to twice as much.
fn forest(ratio: &Ratio) -> String {
    let place = |value: f64| 120.0 + 118.0 * value.max(1e-9).log2().clamp(-1.0, 1.0);
    let (low, high) = ratio.interval.unwrap_or((ratio.ratio, ratio.ratio));
    let colour = match ratio.winner {
        Winner::B => 2,
        Winner::A => 1,
        Winner::NotShown => 5,
    };
    format!(
        "<svg viewBox=\"0 0 240 14\" aria-hidden=true><path class=grid d=\"M120 0V14\"/><path class=\"line c{colour}\" d=\"M{:.1} 7H{:.1}\"/>\
         <circle class=c{colour} cx={:.1} cy=7 r=4 /></svg>",
        place(low),
        place(high),
        place(ratio.ratio)
    )
}

fn levels(html: &mut String, groups: &[Group<'_>]) {
    *html += "<h2>All loads</h2><div class=scroll><table><tr><th class=text>server<th class=text>load<th>requests<th>failed<th>req/s<th>tok/s\
              <th>TTFT<br>p50<th>p90<th>p99<th>per token<br>p50<th>p99<th>chunks<br>p50<th>p99<th>whole<br>p50<th>p99<th>objectives<br>kept<th>running<br>mean<th>client<br>late</tr>";
    for group in groups {
        for level in &group.levels {
            row(html, level);
        }
    }
    *html +=
        "</table></div><p class=muted>Times in milliseconds, of requests that did not fail.</p>";
}

fn row(html: &mut String, level: &Level) {
    let Level { ttft, tpot, itl, e2e, .. } = level;
    let class = if level.failures > 0 { " class=bad" } else { "" };
    let _ = write!(
        html,
        "<tr><td class=text>{}<td class=text>{}<td>{}<td{class}>{}",
        for_html(&level.target),
        level.load.words(),
        level.requests,
        level.failures
    );
    let rates = [level.requests_per_second, level.output_tokens_per_second];
    let times =
        [ttft.p50, ttft.p90, ttft.p99, tpot.p50, tpot.p99, itl.p50, itl.p99, e2e.p50, e2e.p99];
    for value in rates.into_iter().chain(times) {
        let _ = write!(html, "<td>{}", three_digits(value));
    }
    let goodput = level.goodput.map_or("–".to_owned(), |goodput| percent(goodput.share));
    let late = level.client.lag.p99.max(level.client.dispatch.p99);
    let _ = write!(
        html,
        "<td>{goodput}<td>{}<td>{}</tr>",
        three_digits(level.mean_running),
        three_digits(late)
    );
}

fn failures(html: &mut String, levels: &[Level]) {
    if levels.iter().all(|level| level.failures == 0) {
        return;
    }
    *html += "<h2>Failures</h2><div class=scroll><table><tr><th class=text>server<th class=text>load<th class=text>kind<th>requests<th class=text>the first one's words</tr>";
    for level in levels {
        let mut words = level.first_failure.as_deref();
        for (kind, count) in &level.failures_by_kind {
            let is_first = words.is_some_and(|words| words.starts_with(kind.words()));
            let told = if is_first { words.take().map(for_html) } else { None };
            let _ = write!(
                html,
                "<tr><td class=text>{}<td class=text>{}<td class=\"text bad\">{}<td>{count}<td class=\"text wrap\">{}</tr>",
                for_html(&level.target),
                level.load.words(),
                kind.words(),
                told.unwrap_or_default()
            );
        }
    }
    *html += "</table></div>";
}
