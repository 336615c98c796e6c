//! Windows of text: how far an engine's log probabilities lie from those of float32, position by position.

use quire_engine::request::TokenLogprobs;
use quire_engine::{EngineHandle, SamplingParams};
use serde_json::Value;

use crate::{ask, repository};

/// llama.cpp's divergence on the default model and the golden windows: the bar of the default mode.
pub const MAX_DIVERGENCE: f64 = 0.0033;

/// How many of the likeliest tokens are compared; the rest is one outcome.
const NUM_TOP: usize = 20;
/// So many are asked of the engine under test, whose order may be another.
const NUM_REPORTED: u32 = 512;

/// A text and what float32 says of it.
#[derive(Clone, Debug)]
pub struct Window {
    ids: Vec<u32>,
    /// Of every token but the first.
    expected: Vec<Expected>,
}

#[derive(Clone, Debug)]
struct Expected {
    logprob: f64,
    /// Ids and log probabilities of the likeliest tokens.
    top: Vec<(u32, f64)>,
}

/// Means over the positions of the windows.
#[derive(Clone, Copy, Debug)]
pub struct WindowFigures {
    pub num_positions: usize,
    /// Of |difference| of the next token's log probability.
    pub mean_difference: f64,
    /// Of the KL divergence.
    pub divergence: f64,
}

/// The windows of the default model.
pub fn golden_windows() -> Vec<Window> {
    let golden = read("smollm2-135m-windows.json");
    let windows = golden["windows"].as_array().expect("windows");
    windows.iter().map(golden_window).collect()
}

fn golden_window(window: &Value) -> Window {
    let next = window["next_logprob"].as_array().expect("log probabilities").iter();
    let expected = next.enumerate().map(|(position, logprob)| {
        let top_ids = ids(&window["top20_ids"][position]);
        let logprobs = window["top20_logprobs"][position].as_array().expect("log probabilities");
        let top = top_ids.into_iter().zip(logprobs.iter().map(number)).collect();
        Expected { logprob: number(logprob), top }
    });
    Window { ids: ids(&window["ids"]), expected: expected.collect() }
}

impl Window {
    /// With what an engine of float32 weights says.
    pub fn of(float32: &EngineHandle, ids: &[u32]) -> Self {
        let expected = prompt_logprobs(float32, ids).into_iter().map(|entry| {
            let top = entry.top.iter().take(NUM_TOP).map(|&(id, x)| (id, f64::from(x)));
            Expected { logprob: f64::from(entry.logprob), top: top.collect() }
        });
        Self { ids: ids.to_vec(), expected: expected.collect() }
    }

    /// The beginning of it.
    #[must_use]
    pub fn truncated(mut self, num_tokens: usize) -> Self {
        self.ids.truncate(num_tokens);
        self.expected.truncate(self.ids.len() - 1);
        self
    }
}

/// The engine must report 512 log probabilities.
pub fn window_figures(handle: &EngineHandle, windows: &[Window]) -> WindowFigures {
    let (mut difference, mut divergence, mut num_positions) = (0.0, 0.0, 0);
    for window in windows {
        let entries = prompt_logprobs(handle, &window.ids);
        assert_eq!(entries.len(), window.expected.len());
        for (entry, expected) in entries.iter().zip(&window.expected) {
            difference += (f64::from(entry.logprob) - expected.logprob).abs();
            divergence += kl_divergence(&expected.top, entry);
        }
        num_positions += entries.len();
    }
    let count = num_positions as f64;
    let (mean_difference, divergence) = (difference / count, divergence / count);
    WindowFigures { num_positions, mean_difference, divergence }
}

fn prompt_logprobs(handle: &EngineHandle, ids: &[u32]) -> Vec<TokenLogprobs> {
    let prompt_logprobs = Some(NUM_REPORTED);
    let params = SamplingParams { prompt_logprobs, ..SamplingParams::greedy(1) };
    ask(handle, ids, params).started.prompt_logprobs.into_iter().flatten().collect()
}

fn kl_divergence(expected: &[(u32, f64)], entry: &TokenLogprobs) -> f64 {
    let (mut divergence, mut expected_rest, mut our_rest) = (0.0, 1.0, 1.0);
    for &(id, expected) in expected {
        let found = entry.top.iter().find(|(token, _)| *token == id);
        let ours = f64::from(found.or(entry.top.last()).expect("some are reported").1);
        divergence += expected.exp() * (expected - ours);
        expected_rest -= expected.exp();
        our_rest -= ours.exp();
    }
    let (expected_rest, our_rest) = (expected_rest.max(1e-9), our_rest.max(1e-9));
    divergence + expected_rest * (expected_rest / our_rest).ln()
}

/// A file of the golden folder.
pub fn read(name: &str) -> Value {
    let path = repository(&format!("tests/data/golden/{name}"));
    let text = std::fs::read_to_string(&path).expect("golden files are committed");
    serde_json::from_str(&text).expect("golden files are JSON")
}

/// An array of token ids.
pub fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("an array of ids");
    ids.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

pub fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}
