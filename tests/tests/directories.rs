//! Directories with safetensors: the golden numbers, and the answers of the GGUF file made of the same model.

use quire_engine::config::{Activations, Weights};
use quire_engine::request::TokenLogprobs;
use quire_engine::{EngineOptions, ModelFiles, SamplingParams};
use quire_tests::distance::{Distance, VOCAB_SIZE, other_answers, prompts};
use quire_tests::families::FAMILIES;
use quire_tests::layers::first_wrong_layer;
use quire_tests::{Answer, ask, options, start, start_files};

#[test]
fn directories_reproduce_the_golden_numbers() {
    let mut num_models = 0;
    for family in FAMILIES {
        let Some(path) = family.directory() else {
            println!("{}: no directory here", family.name);
            continue;
        };
        num_models += 1;
        let (name, golden) = (family.name, family.golden());
        let options = family.options(Weights::Float32);
        let files = ModelFiles::open(&path).expect("it opens");
        for prompt in prompts() {
            let wrong = first_wrong_layer(&files, &options, &golden, &prompt);
            assert_eq!(wrong, None, "{name}");
        }
        let handle = start_files(&files, &options, &[]);
        let mut distance = Distance::default();
        let others = other_answers(&handle, &golden, 0.0, &mut distance);
        println!("{name} float32: mean {}, {distance:?}", distance.mean());
        assert_eq!(others, [""; 0], "{name}: other tokens");
        assert!(distance.largest <= 2e-3, "{name}: {distance:?}");
        for activations in [family.options(Weights::Packed).activations, Activations::INT16] {
            println!("{}", family.check_packed(&files, activations));
        }
    }
    assert!(num_models > 0, "no directory was tried");
}

/// Files of others leave out what llama.cpp assumes.
const SAME_AS_FILES: [&str; 6] =
    ["llama3", "llama3_k256", "smollm2", "qwen2", "qwen3", "qwen35_vl"];

#[test]
fn a_directory_answers_as_the_file_that_was_made_of_it() {
    let options = EngineOptions { weights: Weights::Float32, ..options() };
    for family in FAMILIES.iter().filter(|family| SAME_AS_FILES.contains(&family.name)) {
        let (Some(file), Some(directory)) = (family.open_gguf(), family.directory()) else {
            continue;
        };
        let handles = [start_files(&file, &options, &[]), start(&directory, &options, &[])];
        for prompt in prompts() {
            let params = SamplingParams {
                logprobs: Some(VOCAB_SIZE),
                prompt_logprobs: Some(0),
                ..SamplingParams::greedy(16)
            };
            let ids = family.golden().ids(&format!("{prompt}.input_ids"));
            let [file, directory] =
                handles.each_ref().map(|handle| ask(handle, &ids, params.clone()));
            let at = format!("{} {prompt}", family.name);
            assert_eq!(file.ids(), directory.ids(), "{at}");
            let all = |answer: &Answer| -> Vec<TokenLogprobs> {
                let prompt = answer.started.prompt_logprobs.iter().flatten();
                prompt
                    .chain(answer.tokens.iter().flat_map(|token| &token.logprobs))
                    .cloned()
                    .collect()
            };
            for (a, b) in all(&file).iter().zip(&all(&directory)) {
                assert!((a.logprob - b.logprob).abs() <= 1e-4, "{at}: {a:?}, {b:?}");
                let value_of =
                    |id: u32| b.top.iter().find(|(other, _)| *other == id).expect("all tokens").1;
                let is_close = |&(id, value): &(u32, f32)| (value - value_of(id)).abs() <= 1e-4;
                assert!(a.top.iter().all(is_close), "{at}");
            }
        }
    }
}
