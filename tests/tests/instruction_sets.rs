//! The default model with each instruction set that this machine has, forced as `--cpu-isa` does.

use quire_engine::config::{Activations, SimdLevel, Weights};
use quire_engine::{EngineOptions, SamplingParams};
use quire_tests::windows::{
    MAX_DIVERGENCE, Window, golden_windows, ids, number, read, window_figures,
};
use quire_tests::{ask, default_model, options, start};

/// Where the two likeliest tokens lie closer than this, rounding may choose either.
const MIN_MARGIN: f64 = 0.01;
/// Every level answers so many prompts, the shortest first; the portable one, which is slow, the first.
const NUM_PROMPTS: usize = 2;
/// What the portable level reads of each window.
const FEW_TOKENS: usize = 12;

#[test]
fn every_level_gives_the_golden_ids() {
    let golden = read("smollm2-135m.json");
    let prompts = golden["float32"].as_object().expect("prompts by text");
    let mut prompts: Vec<_> = prompts.values().filter(|entry| entry["fp32"].is_object()).collect();
    prompts.sort_by_key(|entry| ids(&entry["fp32"]["ids"]).len());
    for level in SimdLevel::available() {
        let options =
            EngineOptions { weights: Weights::Float32, cpu_isa: Some(level), ..options() };
        let handle = start(&default_model(), &options, &[]);
        let num_prompts = if level == SimdLevel::Portable { 1 } else { NUM_PROMPTS };
        for entry in &prompts[..num_prompts] {
            let (prompt, ids) = (ids(&entry["prompt_ids"]), ids(&entry["fp32"]["ids"]));
            let steps = entry["fp32"]["steps_id_logprob_runnerup_margin"].as_array();
            let steps = steps.expect("steps").iter();
            let num_sure = steps.take_while(|step| number(&step[3]) > MIN_MARGIN).count();
            let answer = ask(&handle, &prompt, SamplingParams::greedy(ids.len() as u32));
            assert!(num_sure > 4, "a prompt with few sure tokens");
            assert_eq!(answer.ids()[..num_sure], ids[..num_sure], "{}", level.name());
        }
    }
}

#[test]
fn every_level_stays_under_the_bar_of_divergence() {
    let windows = golden_windows();
    let beginnings: Vec<Window> =
        windows.iter().map(|window| window.clone().truncated(FEW_TOKENS)).collect();
    for level in SimdLevel::available() {
        // Few positions have a mean of their own: of 8 bits they show a kernel that is broken, of 16 bits one that is off.
        let few = [(Activations::INT8, 2.0 * MAX_DIVERGENCE), (Activations::INT16, 3e-5)]
            .map(|(activations, bar)| (activations, &beginnings, bar));
        let whole = (Activations::INT8, &windows, MAX_DIVERGENCE);
        let whole = (level > SimdLevel::Portable).then_some(whole);
        for (activations, windows, bar) in few.into_iter().chain(whole) {
            let options = EngineOptions { cpu_isa: Some(level), activations, ..options() };
            let figures = window_figures(&start(&default_model(), &options, &[]), windows);
            println!("{}, {activations}: {figures:?}", level.name());
            assert!(figures.divergence <= bar, "{}, {activations}: {figures:?}", level.name());
        }
    }
}
