//! A number of users who each send a request, read its answer, and send the next.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::prompts::prompt;
use crate::statistics::{Summary, mean};
use crate::stream::{Answer, Target, chat};

/// What a number of users met. Times in milliseconds, of requests that did not fail.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Level {
    pub concurrency: usize,
    pub requests: u64,
    pub failures: usize,
    /// From the first request's start to the last one's end.
    pub seconds: f64,
    pub output_tokens_per_second: f64,
    pub prompt_tokens: f64,
    pub ttft: Summary,
    /// All gaps of all requests.
    pub itl: Summary,
    /// A mean gap per request.
    pub tpot: Summary,
    pub e2e: Summary,
    /// Of the server and its children so far.
    pub peak_memory_bytes: Option<u64>,
    pub first_failure: Option<String>,
}

/// Sends requests `numbers` from `concurrency` users, and waits for the end of all.
pub fn run(
    target: &Target,
    concurrency: usize,
    numbers: std::ops::Range<u64>,
    num_words: usize,
) -> Level {
    let next = AtomicU64::new(numbers.start);
    let results = Mutex::new(Vec::new());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..concurrency {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        break;
                    }
                    let result = chat(target, &prompt(number, num_words));
                    results.lock().expect("no user panics").push(result);
                }
            });
        }
    });
    let elapsed = start.elapsed();
    let results = results.into_inner().expect("no user panics");
    level(concurrency, results, elapsed)
}

fn level(concurrency: usize, results: Vec<anyhow::Result<Answer>>, elapsed: Duration) -> Level {
    let requests = results.len() as u64;
    let (mut answers, mut failures) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(answer) => answers.push(answer),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let summary = |times: &dyn Fn(&Answer) -> Vec<f64>| {
        Summary::of(&answers.iter().flat_map(times).collect::<Vec<f64>>())
    };
    let num_output_tokens: usize = answers.iter().map(|answer| answer.num_output_tokens).sum();
    let prompt_tokens: Vec<f64> =
        answers.iter().map(|answer| answer.num_prompt_tokens as f64).collect();
    Level {
        concurrency,
        requests,
        failures: failures.len(),
        seconds: elapsed.as_secs_f64(),
        output_tokens_per_second: num_output_tokens as f64 / elapsed.as_secs_f64(),
        prompt_tokens: mean(&prompt_tokens),
        ttft: summary(&|answer| vec![milliseconds(answer.time_to_first_token)]),
        itl: summary(&|answer| answer.gaps.iter().map(|&gap| milliseconds(gap)).collect()),
        tpot: summary(&|answer| {
            answer.time_per_output_token().map(|seconds| seconds * 1e3).into_iter().collect()
        }),
        e2e: summary(&|answer| vec![milliseconds(answer.latency)]),
        peak_memory_bytes: None,
        first_failure: failures.into_iter().next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(first_ms: u64, gap_ms: u64) -> Answer {
        Answer {
            time_to_first_token: Duration::from_millis(first_ms),
            gaps: vec![Duration::from_millis(gap_ms); 3],
            latency: Duration::from_millis(first_ms + 3 * gap_ms),
            num_prompt_tokens: 100,
            num_output_tokens: 4,
        }
    }

    #[test]
    fn failures_are_counted_and_left_out_of_the_times() {
        let results = vec![Ok(answer(10, 2)), Err(anyhow::anyhow!("refused")), Ok(answer(30, 4))];
        let level = level(2, results, Duration::from_secs(2));
        assert_eq!((level.requests, level.failures), (3, 1));
        assert_eq!(level.first_failure.as_deref(), Some("refused"));
        assert_eq!(level.output_tokens_per_second, 4.0);
        assert_eq!((level.ttft.mean, level.itl.mean, level.prompt_tokens), (20.0, 3.0, 100.0));
        let (tpot, e2e) = (level.tpot.mean, level.e2e.p50);
        assert!((tpot - 3.0).abs() < 1e-9 && (e2e - 29.0).abs() < 1e-9, "{tpot} {e2e}");
    }
}
