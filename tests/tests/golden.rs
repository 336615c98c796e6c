//! The default model against its float32 self: greedy ids, log probabilities of long texts, and the price of packing.

use quire_engine::config::{Activations, Weights};
use quire_engine::request::TokenLogprobs;
use quire_engine::{EngineOptions, SamplingParams};
use quire_tests::{ask, default_model, options, repository, start};
use serde_json::Value;

/// Where the two likeliest tokens lie closer than this, rounding may choose either.
const MIN_MARGIN: f64 = 0.01;
/// llama.cpp's divergence on the same file and text.
const MAX_DIVERGENCE: f64 = 0.0033;
const END_OF_TURN: u32 = 2;

#[test]
fn float32_weights_give_the_golden_ids() {
    let options = EngineOptions { weights: Weights::Float32, ..options() };
    let handle = start(&default_model(), &options, &[END_OF_TURN]);
    let golden = read("smollm2-135m.json");
    let prompts = golden["float32"].as_object().expect("prompts by text");
    let mut num_steps = 0;
    for (text, entry) in prompts.iter().filter(|(_, entry)| entry["fp32"].is_object()) {
        let (prompt, ids) = (ids(&entry["prompt_ids"]), ids(&entry["fp32"]["ids"]));
        let steps = entry["fp32"]["steps_id_logprob_runnerup_margin"].as_array().expect("steps");
        let margins: Vec<f64> = steps.iter().map(|step| number(&step[3])).collect();
        let answer = ask(&handle, &prompt, SamplingParams::greedy(ids.len() as u32));
        let first_tie =
            margins.iter().position(|&margin| margin <= MIN_MARGIN).unwrap_or(ids.len());
        assert_eq!(answer.ids()[..first_tie], ids[..first_tie], "{text}");

        // Beyond a tie the two may part for good: there the golden ids are forced, and each next one is checked.
        let forced = [prompt.as_slice(), &ids].concat();
        let params = SamplingParams { prompt_logprobs: Some(1), ..SamplingParams::greedy(1) };
        let forced = ask(&handle, &forced, params).started.prompt_logprobs;
        for (step, (&id, &margin)) in ids.iter().zip(&margins).enumerate() {
            let entry = forced[prompt.len() + step].as_ref().expect("all but the first token");
            let tied = margin <= MIN_MARGIN;
            assert!(tied || entry.top[0].0 == id, "{text}, step {step}: {entry:?}, not {id}");
            num_steps += usize::from(!tied);
        }
    }
    assert!(num_steps > 100, "only {num_steps} steps were compared");
}

#[test]
fn float32_weights_give_the_golden_log_probabilities() {
    let options = EngineOptions { weights: Weights::Float32, ..options() };
    let distance = window_figures(&options).mean_difference;
    println!("float32: mean |difference of log probability| {distance:.6}");
    assert!(distance < 0.002, "{distance}");
}

#[test]
fn int16_activations_cost_no_fidelity() {
    let options = EngineOptions { activations: Activations::Int16, ..options() };
    let figures = window_figures(&options);
    println!("int16: mean KL divergence to float32 {:.6}", figures.divergence);
    assert!(figures.divergence <= MAX_DIVERGENCE / 100.0, "{}", figures.divergence);
}

#[test]
fn the_default_mode_costs_little_fidelity() {
    let figures = window_figures(&options());
    println!("default mode: mean KL divergence to float32 {:.6}", figures.divergence);
    println!("default mode: mean |difference of log probability| {:.6}", figures.mean_difference);
    assert!(figures.divergence <= MAX_DIVERGENCE, "{}", figures.divergence);
}

struct WindowFigures {
    /// Mean |difference| of the next token's log probability.
    mean_difference: f64,
    /// Mean KL divergence over the golden top 20 and the rest as one outcome.
    divergence: f64,
}

fn window_figures(options: &EngineOptions) -> WindowFigures {
    let handle = start(&default_model(), options, &[END_OF_TURN]);
    let golden = read("smollm2-135m-windows.json");
    let (mut difference, mut divergence, mut count) = (0.0, 0.0, 0);
    for window in golden["windows"].as_array().expect("windows") {
        let params = SamplingParams { prompt_logprobs: Some(512), ..SamplingParams::greedy(1) };
        let entries = ask(&handle, &ids(&window["ids"]), params).started.prompt_logprobs;
        let next = window["next_logprob"].as_array().expect("log probabilities");
        assert_eq!(entries.len(), next.len() + 1);
        for (position, entry) in entries.iter().flatten().enumerate() {
            difference += (f64::from(entry.logprob) - number(&next[position])).abs();
            let top_ids = ids(&window["top20_ids"][position]);
            divergence += kl_divergence(&top_ids, &window["top20_logprobs"][position], entry);
            count += 1;
        }
    }
    assert!(count > 1700, "only {count} positions");
    let count = f64::from(count);
    WindowFigures { mean_difference: difference / count, divergence: divergence / count }
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

fn read(name: &str) -> Value {
    let path = repository(&format!("tests/data/golden/{name}"));
    let text = std::fs::read_to_string(&path).expect("golden files are committed");
    serde_json::from_str(&text).expect("golden files are JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("an array of ids");
    ids.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}
