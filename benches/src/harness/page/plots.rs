//! The plots of the page: throughput against latency, percentiles, the run in time, a search.

use super::plot::{Axis, NUM_COLOURS, Series, Style, figure};
use super::{Group, Outcome};
use crate::harness::measures::Level;
use crate::harness::search::Search;
use crate::statistics::{CURVE_PERCENTS, Summary};

/// Most lines in a plot.
const MAX_LINES: usize = NUM_COLOURS;

pub(super) fn section(html: &mut String, outcome: &Outcome, groups: &[Group<'_>]) {
    let shown: Vec<&Group<'_>> =
        groups.iter().filter(|group| group.mean(|level| level.ttft.count as f64) > 0.0).collect();
    if shown.is_empty() {
        return;
    }
    if !outcome.searches.is_empty() {
        *html += "<h2>Search</h2><div class=plots>";
        for search in &outcome.searches {
            *html += &probes(search);
        }
        *html += "</div>";
    }
    if shown.len() > targets(&shown).len() {
        *html += "<h2>Throughput against latency</h2><div class=plots>";
        let bounds = outcome.objectives.unwrap_or_default();
        *html += &against(
            &shown,
            "Time to first token (ms)",
            |level| level.ttft.p50,
            |level| level.ttft.p99,
            bounds.ttft,
        );
        *html += &against(
            &shown,
            "Time per token (ms)",
            |level| level.tpot.p50,
            |level| level.tpot.p99,
            bounds.tpot,
        );
        *html += &against(
            &shown,
            "Whole request (ms)",
            |level| level.e2e.p50,
            |level| level.e2e.p99,
            bounds.e2el,
        );
        *html += "</div>";
    }
    *html += "<h2>Latency percentiles</h2><div class=\"plots four\">";
    let lines = match &outcome.comparison {
        // Two servers at one load, in the colours that they have in the other plots.
        Some(comparison) => {
            let load = comparison.load();
            let both = shown.iter().copied().filter(|group| Some(group.levels[0].load) == load);
            both.map(|group| (group.name(true), group)).collect()
        }
        None => chosen(&shown),
    };
    let bounds = outcome.objectives.unwrap_or_default();
    *html += &percentiles(&lines, "Time to first token (ms)", |level| &level.ttft, bounds.ttft);
    *html += &percentiles(&lines, "Time per token (ms)", |level| &level.tpot, bounds.tpot);
    *html += &percentiles(&lines, "Between chunks (ms)", |level| &level.itl, None);
    *html += &percentiles(&lines, "Whole request (ms)", |level| &level.e2e, bounds.e2el);
    *html += "</div><h2>The run in time</h2><div class=plots>";
    for (name, group) in if outcome.comparison.is_some() { lines } else { busiest(&shown) } {
        timeline(html, group, &name);
    }
    *html += "</div>";
}

/// The load of each server with the most tokens a second.
fn busiest<'a, 'b>(groups: &[&'b Group<'a>]) -> Vec<(String, &'b Group<'a>)> {
    let names = targets(groups);
    let rate = |group: &&Group<'_>| group.mean(|level| level.output_tokens_per_second);
    let best = names.iter().filter_map(|target| {
        let of_target = groups.iter().copied().filter(|group| group.target == *target);
        of_target.max_by(|a, b| rate(a).total_cmp(&rate(b)))
    });
    best.map(|group| (group.name(names.len() > 1), group)).collect()
}

fn targets<'a>(groups: &[&Group<'a>]) -> Vec<&'a str> {
    let mut names = Vec::new();
    for group in groups {
        if !names.contains(&group.target) {
            names.push(group.target);
        }
    }
    names
}

/// As many as have a colour: evenly chosen, with the first and the last.
fn chosen<'a, 'b>(groups: &[&'b Group<'a>]) -> Vec<(String, &'b Group<'a>)> {
    let has_two = targets(groups).len() > 1;
    let most = groups.len().min(MAX_LINES);
    let index = |line: usize| if most > 1 { line * (groups.len() - 1) / (most - 1) } else { 0 };
    (0..most).map(|line| (groups[index(line)].name(has_two), groups[index(line)])).collect()
}

type Of = fn(&Level) -> f64;
type Line<'a> = (&'a str, Style, Vec<(f64, f64)>);

/// Each load a dot: more to the right is more throughput, lower is quicker.
fn against(groups: &[&Group<'_>], title: &str, median: Of, tail: Of, bound: Option<f64>) -> String {
    let mut series = Vec::new();
    let names = targets(groups);
    for (index, &target) in names.iter().enumerate() {
        let mut of_target: Vec<&&Group<'_>> =
            groups.iter().filter(|group| group.target == target).collect();
        of_target.sort_by(|a, b| a.mean(load_of).total_cmp(&b.mean(load_of)));
        for (of, words, style) in [(median, "p50", Style::Dots), (tail, "p99", Style::Dashed)] {
            let points: Vec<(f64, f64)> = of_target
                .iter()
                .map(|group| (group.mean(|level| level.output_tokens_per_second), group.mean(of)))
                .collect();
            let is_labelled = style == Style::Dots;
            let labels =
                of_target.iter().filter(|_| is_labelled).map(|group| short_load(group)).collect();
            let name = if names.len() > 1 { format!("{target} {words}") } else { words.to_owned() };
            series.push(Series { name, colour: index, style, points, labels });
        }
    }
    let values = |of: fn(&(f64, f64)) -> f64| {
        series.iter().flat_map(|one| &one.points).map(of).collect::<Vec<f64>>()
    };
    let (xs, ys) = (values(|point| point.0), values(|point| point.1));
    let x = Axis::linear("output tokens/s →", xs.into_iter());
    let y = Axis::spread("↑ ms", ys.into_iter().chain(bound));
    figure(title, &x, &y, &series, bound.map(|ms| (ms, "objective")))
}

fn load_of(level: &Level) -> f64 {
    level.load.rate.or(level.load.users.map(|users| users as f64)).unwrap_or(0.0)
}

fn short_load(group: &Group<'_>) -> String {
    let words = group.levels[0].load.words();
    words.split(' ').next().unwrap_or_default().to_owned()
}

/// Where a percentile is on the axis: each further nine takes the same room.
fn nines(percent: f64) -> f64 {
    -(1.0 - (percent / 100.0).min(0.9995)).log10()
}

fn percentiles(
    lines: &[(String, &Group<'_>)],
    title: &str,
    of: fn(&Level) -> &Summary,
    bound: Option<f64>,
) -> String {
    let series: Vec<Series> = lines
        .iter()
        .enumerate()
        .map(|(colour, (name, group))| {
            let curves: Vec<&Vec<f64>> = group
                .levels
                .iter()
                .map(|level| &of(level).curve)
                .filter(|curve| curve.len() == CURVE_PERCENTS.len())
                .collect();
            let num = curves.len().max(1) as f64;
            let at = |index: usize| curves.iter().map(|curve| curve[index]).sum::<f64>() / num;
            let points = CURVE_PERCENTS.iter().enumerate().filter(|_| !curves.is_empty());
            let points = points.map(|(index, &percent)| (nines(percent), at(index))).collect();
            Series { name: name.clone(), colour, style: Style::Line, points, labels: Vec::new() }
        })
        .collect();
    let marks =
        [0.0, 50.0, 90.0, 99.0, 99.9].map(|percent| (nines(percent), format!("p{percent}")));
    let x = Axis::fixed("percentile →", 0.0, nines(100.0), marks.to_vec());
    // The luckiest requests would stretch a logarithmic axis for nothing.
    let points = series.iter().flat_map(|one| &one.points).filter(|point| point.0 >= nines(10.0));
    let values: Vec<f64> = points.map(|point| point.1).chain(bound).collect();
    let y = Axis::spread("↑ ms", values.into_iter());
    figure(title, &x, &y, &series, bound.map(|ms| (ms, "objective")))
}

/// Chunks and waiting of one level as they went; of several rounds the first.
fn timeline(html: &mut String, group: &Group<'_>, name: &str) {
    let level = group.levels[0];
    let timeline = &level.timeline;
    let at = |index: usize| index as f64 * timeline.seconds;
    let line = |of: &dyn Fn(&crate::harness::timeline::Piece) -> Option<f64>| -> Vec<(f64, f64)> {
        let pieces = timeline.pieces.iter().enumerate();
        pieces.filter_map(|(index, piece)| Some((at(index), of(piece)?))).collect()
    };
    let plot = |title: &str, unit: &str, all: &[Line<'_>]| {
        let series: Vec<Series> = all
            .iter()
            .enumerate()
            .map(|(colour, (name, style, points))| Series {
                name: (*name).to_owned(),
                colour,
                style: *style,
                points: points.clone(),
                labels: Vec::new(),
            })
            .collect();
        let ys: Vec<f64> = series.iter().flat_map(|one| &one.points).map(|point| point.1).collect();
        let x = Axis::until("seconds →", level.seconds);
        figure(title, &x, &Axis::linear(unit, ys.into_iter()), &series, None)
    };
    let chunks = line(&|piece| Some(piece.chunks_per_second));
    let mut rates = vec![("chunks/s", Style::Area, chunks)];
    if level.failures > 0 {
        let failed = line(&|piece| Some(piece.failed as f64 / timeline.seconds));
        rates.push(("failures/s", Style::Line, failed));
    }
    *html += &plot(&format!("Chunks/s, {name}"), "↑ chunks/s", &rates);
    let median = line(&|piece| piece.ttft.map(|(median, _)| median));
    let most = line(&|piece| piece.ttft.map(|(_, most)| most));
    let waits = [("median", Style::Line, median), ("largest", Style::Line, most)];
    *html += &plot(&format!("TTFT, {name}"), "↑ ms, by when it was meant to be sent", &waits);
    let running = line(&|piece| Some(piece.running));
    *html +=
        &plot(&format!("Under way, {name}"), "↑ requests", &[("running", Style::Area, running)]);
}

fn probes(search: &Search) -> String {
    let dots =
        |is_kept: bool| search.probes.iter().filter(move |probe| probe.missed.is_none() == is_kept);
    let series: Vec<Series> = [("kept", true, 2), ("missed", false, 1)]
        .into_iter()
        .flat_map(|(name, is_kept, colour)| {
            // A dot is a line of one point.
            dots(is_kept).enumerate().map(move |(index, probe)| Series {
                name: if index == 0 { name.to_owned() } else { String::new() },
                colour,
                style: Style::Dots,
                points: vec![(probe.rate, 100.0 * probe.share)],
                labels: Vec::new(),
            })
        })
        .collect();
    let x = Axis::linear("requests/s →", search.probes.iter().map(|probe| probe.rate));
    let marks =
        [0.0, 20.0, 40.0, 60.0, 80.0, 100.0].map(|percent| (percent, format!("{percent}%")));
    let y = Axis::fixed("↑ requests that kept all objectives", 0.0, 104.0, marks.to_vec());
    figure(
        &format!("Rates tried on {}", search.target),
        &x,
        &y,
        &series,
        Some((100.0 * search.wanted_share, "wanted")),
    )
}
