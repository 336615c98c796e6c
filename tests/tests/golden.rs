//! The default model against its float32 self: greedy ids, log probabilities of long texts, and the price of packing.

use quire_engine::config::{Activations, Weights};
use quire_engine::{EngineOptions, SamplingParams};
use quire_tests::windows::{
    self, MAX_DIVERGENCE, WindowFigures, golden_windows, ids, number, read,
};
use quire_tests::{ask, default_model, options, start};

/// Where the two likeliest tokens lie closer than this, rounding may choose either.
const MIN_MARGIN: f64 = 0.01;
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
    let options = EngineOptions { activations: Activations::INT16, ..options() };
    let figures = window_figures(&options);
    println!("int16: mean KL divergence to float32 {:.6}", figures.divergence);
    assert!(figures.divergence <= MAX_DIVERGENCE / 100.0, "{}", figures.divergence);
}

#[test]
fn mixed_activations_lie_between() {
    let options = EngineOptions { activations: Activations::MIXED, ..options() };
    let figures = window_figures(&options);
    println!("mixed: mean KL divergence to float32 {:.6}", figures.divergence);
    assert!(figures.divergence <= 0.7 * MAX_DIVERGENCE, "{}", figures.divergence);
}

#[test]
fn the_default_mode_costs_little_fidelity() {
    let figures = window_figures(&options());
    println!("default mode: mean KL divergence to float32 {:.6}", figures.divergence);
    println!("default mode: mean |difference of log probability| {:.6}", figures.mean_difference);
    assert!(figures.divergence <= MAX_DIVERGENCE, "{}", figures.divergence);
}

fn window_figures(options: &EngineOptions) -> WindowFigures {
    let handle = start(&default_model(), options, &[END_OF_TURN]);
    let figures = windows::window_figures(&handle, &golden_windows());
    assert!(figures.num_positions > 1700, "only {} positions", figures.num_positions);
    figures
}
