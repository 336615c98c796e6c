//! Tiny models as GGUF with golden numbers of a reference implementation, in float32 and in the default mode.

use quire_engine::config::Weights;
use quire_engine::weights::ModelFiles;
use quire_engine::{EngineHandle, EngineOptions};
use quire_tests::distance::{Distance, check_prompt, first_difference, prompts};
use quire_tests::families::{FAMILIES, Family};
use quire_tests::{options, start_files};

fn start(family: &Family, files: &ModelFiles, weights: Weights) -> EngineHandle {
    let &Family { max_model_len, activations, .. } = family;
    let options = EngineOptions { weights, activations, max_model_len, ..options() };
    start_files(files, &options, &[])
}

#[test]
fn float32_reproduces_the_golden_numbers() {
    for family in FAMILIES {
        let Some(files) = family.open_gguf() else {
            println!("{}: no GGUF file here", family.name);
            continue;
        };
        let handle = start(family, &files, Weights::Float32);
        let mut distance = Distance::default();
        for prompt in prompts() {
            check_prompt(&handle, &family.golden(), &prompt, 0.0, &mut distance);
        }
        println!("{} float32: {distance:?}", family.name);
        assert!(distance.largest <= 2e-3, "{}: {distance:?}", family.name);
    }
}

#[test]
fn the_default_mode_stays_close() {
    for family in FAMILIES {
        let Some(files) = family.open_gguf() else {
            println!("{}: no GGUF file here", family.name);
            continue;
        };
        let (handle, golden) = (start(family, &files, Weights::Packed), family.golden());
        let mut distance = Distance::default();
        let prompts = prompts().into_iter();
        let others: Vec<(String, usize)> = prompts
            .filter_map(|prompt| {
                let step = first_difference(&handle, &golden, &prompt, 0.1, &mut distance)?;
                Some((prompt, step))
            })
            .collect();
        let most = usize::from(family.chooses);
        assert!(others.len() <= most, "{}: other tokens at {others:?}", family.name);
        println!("{} packed: mean {}, {distance:?}", family.name, distance.mean());
        assert!(distance.mean() < 0.05, "{}: {distance:?}", family.name);
    }
}
