//! The golden windows: how far an engine's log probabilities of long texts lie from those of float32.

use quire_engine::request::TokenLogprobs;
use quire_engine::{EngineHandle, SamplingParams};
use serde_json::Value;

use crate::{ask, repository};

/// llama.cpp's divergence on the same file and text: the bar of the default mode.
pub const MAX_DIVERGENCE: f64 = 0.0033;

/// Means over the positions of the windows.
#[derive(Clone, Copy, Debug)]
pub struct WindowFigures {
    pub num_positions: usize,
    /// Of |difference| of the next token's log probability.
    pub mean_difference: f64,
    /// Of the KL divergence over the golden top 20 and the rest as one outcome.
    pub divergence: f64,
}

/// The first `max_tokens` of each window of the default model. The engine must report 512 log probabilities.
pub fn window_figures(handle: &EngineHandle, max_tokens: usize) -> WindowFigures {
    let golden = read("smollm2-135m-windows.json");
    let (mut difference, mut divergence, mut num_positions) = (0.0, 0.0, 0);
    for window in golden["windows"].as_array().expect("windows") {
        let params = SamplingParams { prompt_logprobs: Some(512), ..SamplingParams::greedy(1) };
        let tokens = ids(&window["ids"]);
        let tokens = &tokens[..tokens.len().min(max_tokens)];
        let entries = ask(handle, tokens, params).started.prompt_logprobs;
        assert_eq!(entries.len(), tokens.len());
        for (position, entry) in entries.iter().flatten().enumerate() {
            let next = number(&window["next_logprob"][position]);
            difference += (f64::from(entry.logprob) - next).abs();
            let top_ids = ids(&window["top20_ids"][position]);
            divergence += kl_divergence(&top_ids, &window["top20_logprobs"][position], entry);
            num_positions += 1;
        }
    }
    let count = num_positions as f64;
    let (mean_difference, divergence) = (difference / count, divergence / count);
    WindowFigures { num_positions, mean_difference, divergence }
}

fn kl_divergence(ids: &[u32], golden: &Value, entry: &TokenLogprobs) -> f64 {
    let (mut divergence, mut golden_rest, mut our_rest) = (0.0, 1.0, 1.0);
    for (index, &id) in ids.iter().enumerate() {
        let found = entry.top.iter().find(|(token, _)| *token == id);
        let ours = f64::from(found.or(entry.top.last()).expect("some are reported").1);
        let golden = number(&golden[index]);
        divergence += golden.exp() * (golden - ours);
        golden_rest -= golden.exp();
        our_rest -= ours.exp();
    }
    let (golden_rest, our_rest) = (golden_rest.max(1e-9), our_rest.max(1e-9));
    divergence + golden_rest * (golden_rest / our_rest).ln()
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
