//! From the requests of a run to what reports say of it.
//!
//! Definitions are those of vLLM's benchmark (`calculate_metrics` in `benchmarks/serve.py`): TTFT until the first chunk with content;
//! ITL every gap between such chunks, of all requests together; TPOT (E2E − TTFT) / (tokens − 1) of each request with two tokens
//! or more; E2E until the last chunk; throughputs over the time from the first request to the end of the last; failed
//! requests in no latency. One thing differs: in an open loop TTFT and E2E count from when a request was meant to be sent.
//! vLLM's count from its sending is given beside them (`ttft_from_sending`, `e2e_from_sending`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::failure::FailureKind;
use super::lag::{ClientLoad, Validity};
use super::objectives::{Goodput, Objectives};
use super::runner::{Record, Run};
use super::target::Answer;
use super::timeline::Timeline;
use crate::statistics::{Summary, mean};

/// How requests were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Closed loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<usize>,
    /// Open loop, requests a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
}

impl Load {
    /// "32 users", "2.5 requests/s", "the trace's times".
    pub fn words(&self) -> String {
        match (self.users, self.rate) {
            (Some(1), _) => "1 user".to_owned(),
            (Some(users), _) => format!("{users} users"),
            (None, Some(rate)) => format!("{} requests/s", short(rate)),
            (None, None) => "the trace's times".to_owned(),
        }
    }
}

/// Up to three decimals.
fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What a load met. Times in milliseconds, of requests that did not fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    pub target: String,
    pub load: Load,
    pub requests: usize,
    pub failures: usize,
    pub failures_by_kind: BTreeMap<FailureKind, usize>,
    pub first_failure: Option<String>,
    pub seconds: f64,
    /// Most requests under way at once.
    pub peak_running: usize,
    /// Requests under way, averaged over the run: the integral, not a count by seconds.
    pub mean_running: f64,
    pub requests_per_second: f64,
    pub output_tokens_per_second: f64,
    pub total_tokens_per_second: f64,
    /// Mean of a request.
    pub prompt_tokens: f64,
    /// Mean of a request.
    pub output_tokens: f64,
    /// Answers without usage, whose chunks were counted.
    pub counted_by_chunks: usize,
    /// Conversations of a file that had been held before at this level.
    #[serde(default)]
    pub repeated: usize,
    pub ttft: Summary,
    pub tpot: Summary,
    /// All gaps of all requests.
    pub itl: Summary,
    pub e2e: Summary,
    pub ttft_from_sending: Summary,
    pub e2e_from_sending: Summary,
    pub goodput: Option<Goodput>,
    pub client: ClientLoad,
    pub validity: Validity,
    /// Of the server and its children so far.
    pub peak_memory_bytes: Option<u64>,
    pub timeline: Timeline,
    /// The beginning of an answer, as it came.
    pub sample: String,
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The latencies of answered requests, in milliseconds.
struct Times {
    ttft: f64,
    tpot: Option<f64>,
    e2e: f64,
    /// Between the intended time and the sending.
    late: f64,
}

fn times(record: &Record, answer: &Answer) -> Times {
    let late = milliseconds(record.sent.saturating_sub(record.intended));
    Times {
        ttft: late + milliseconds(answer.first),
        tpot: answer.time_per_output_token().map(|seconds| seconds * 1e3),
        e2e: late + milliseconds(answer.last),
        late,
    }
}

impl Level {
    pub fn of(target: &str, load: Load, run: &Run, objectives: Option<&Objectives>) -> Self {
        let answered: Vec<(&Record, &Answer)> = run
            .records
            .iter()
            .filter_map(|record| record.result.as_ref().ok().map(|answer| (record, answer)))
            .collect();
        let all: Vec<Times> =
            answered.iter().map(|(record, answer)| times(record, answer)).collect();
        let summary = |of: &dyn Fn(&Times) -> Option<f64>| {
            Summary::of(&all.iter().filter_map(of).collect::<Vec<f64>>())
        };
        let gaps =
            answered.iter().flat_map(|(_, answer)| &answer.gaps).map(|&gap| f64::from(gap) / 1e3);
        let per_second =
            |count: usize| if run.seconds > 0.0 { count as f64 / run.seconds } else { 0.0 };
        let tokens =
            |of: fn(&Answer) -> usize| answered.iter().map(|(_, answer)| of(answer)).sum::<usize>();
        let (prompt, output) =
            (tokens(|answer| answer.prompt_tokens), tokens(|answer| answer.output_tokens));
        let busy: f64 = run
            .records
            .iter()
            .map(|record| (record.ended.saturating_sub(record.sent)).as_secs_f64())
            .sum();
        let a_request = |count: usize| count as f64 / answered.len().max(1) as f64;
        let (failures_by_kind, first_failure) = failures(&run.records);
        let ttft = summary(&|times| Some(times.ttft));
        Self {
            target: target.to_owned(),
            load,
            requests: run.records.len(),
            failures: run.records.len() - answered.len(),
            failures_by_kind,
            first_failure,
            seconds: run.seconds,
            peak_running: run.peak_running,
            mean_running: if run.seconds > 0.0 { busy / run.seconds } else { 0.0 },
            requests_per_second: per_second(answered.len()),
            output_tokens_per_second: per_second(output),
            total_tokens_per_second: per_second(prompt + output),
            prompt_tokens: a_request(prompt),
            output_tokens: a_request(output),
            repeated: run.num_repeated,
            counted_by_chunks: answered
                .iter()
                .filter(|(_, answer)| answer.is_counted_by_chunks)
                .count(),
            tpot: summary(&|times| times.tpot),
            itl: Summary::of(&gaps.collect::<Vec<f64>>()),
            e2e: summary(&|times| Some(times.e2e)),
            ttft_from_sending: summary(&|times| Some(times.ttft - times.late)),
            e2e_from_sending: summary(&|times| Some(times.e2e - times.late)),
            goodput: objectives.map(|objectives| goodput(objectives, &all, run)),
            client: run.client.clone(),
            validity: run.client.validity(ttft.p50),
            ttft,
            peak_memory_bytes: None,
            timeline: Timeline::of(&run.records, run.seconds),
            sample: answered
                .first()
                .map(|(_, answer)| answer.text.chars().take(200).collect())
                .unwrap_or_default(),
        }
    }
}

fn failures(records: &[Record]) -> (BTreeMap<FailureKind, usize>, Option<String>) {
    let mut by_kind = BTreeMap::new();
    let mut first = None;
    for failure in records.iter().filter_map(|record| record.result.as_ref().err()) {
        *by_kind.entry(failure.kind).or_default() += 1;
        first.get_or_insert_with(|| failure.to_string());
    }
    (by_kind, first)
}

fn goodput(objectives: &Objectives, all: &[Times], run: &Run) -> Goodput {
    let mut missed = [0; 3];
    let mut good = 0;
    for times in all {
        let misses = objectives.missed(times.ttft, times.tpot, times.e2e);
        good += usize::from(!misses.contains(&true));
        for (count, is_missed) in missed.iter_mut().zip(misses) {
            *count += usize::from(is_missed);
        }
    }
    Goodput {
        requests_per_second: if run.seconds > 0.0 { good as f64 / run.seconds } else { 0.0 },
        share: good as f64 / run.records.len().max(1) as f64,
        missed,
    }
}

/// Of several levels of one target and load, means of what they say: rounds of a comparison as one row.
pub fn mean_of(levels: &[&Level], of: fn(&Level) -> f64) -> f64 {
    mean(&levels.iter().map(|level| of(level)).collect::<Vec<f64>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::failure::Failure;

    /// Sent 5 ms late, 4 tokens.
    fn record(intended_ms: u64, first_ms: u64, gap_ms: u64) -> Record {
        let sent = Duration::from_millis(intended_ms + 5);
        let last = Duration::from_millis(first_ms + 3 * gap_ms);
        let answer = Answer {
            first: Duration::from_millis(first_ms),
            gaps: vec![gap_ms as u32 * 1000; 3],
            last,
            prompt_tokens: 100,
            output_tokens: 4,
            is_counted_by_chunks: false,
            text: String::new(),
        };
        Record {
            intended: Duration::from_millis(intended_ms),
            due: sent,
            sent,
            ended: sent + last,
            result: Ok(answer),
        }
    }

    #[test]
    fn failures_are_counted_and_left_out_of_the_times() {
        let mut failed = record(0, 1, 1);
        failed.result = Err(Failure::status(503, "busy"));
        let records = vec![record(0, 10, 2), failed, record(0, 30, 4)];
        let run = Run { records, seconds: 2.0, peak_running: 3, ..Run::default() };
        let objectives = Objectives { ttft: Some(20.0), ..Objectives::default() };
        let level = Level::of("a", Load::default(), &run, Some(&objectives));
        assert_eq!((level.requests, level.failures), (3, 1));
        assert_eq!(level.failures_by_kind, BTreeMap::from([(FailureKind::Unavailable, 1)]));
        assert_eq!(level.output_tokens_per_second, 4.0);
        assert_eq!((level.itl.mean, level.prompt_tokens, level.tpot.count), (3.0, 100.0, 2));
        // From the intended time 5 ms more than from sending.
        assert!(
            (level.ttft.mean - 25.0).abs() < 1e-9
                && (level.ttft_from_sending.mean - 20.0).abs() < 1e-9
        );
        assert!((level.e2e.p50 - 34.0).abs() < 1e-9, "{:?}", level.e2e);
        let goodput = level.goodput.expect("objectives");
        assert_eq!((goodput.requests_per_second, goodput.missed), (0.5, [1, 0, 0]));
        assert!((goodput.share - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(goodput.most_missed(), Some("TTFT"));
    }

    #[test]
    fn nothing_is_zero_everywhere() {
        let load = Load { users: Some(1), rate: None };
        let level = Level::of("a", load, &Run::default(), None);
        assert_eq!(
            (level.requests_per_second, level.mean_running, level.ttft.p99),
            (0.0, 0.0, 0.0)
        );
    }
}
