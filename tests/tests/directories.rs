//! Directories with safetensors: the golden numbers, and the answers of the GGUF file made of the same model.

use quire_engine::config::{Activations, Weights};
use quire_engine::request::TokenLogprobs;
use quire_engine::{EngineOptions, SamplingParams};
use quire_tests::distance::{Distance, VOCAB_SIZE, check_prompt, first_difference, prompts};
use quire_tests::safetensors::Safetensors;
use quire_tests::{Answer, ask, options, repository, start, tiny_directory, tiny_model};

const FAMILIES: [&str; 6] = ["llama3", "llama3_k256", "smollm2", "qwen2", "qwen3", "qwen35_vl"];
/// Without a GGUF file, and only beside the repository.
const BESIDE: [&str; 1] = ["qwen35"];

/// Those whose GGUF files leave keys out or deviate, with the longest context of the golden numbers.
const OTHERS: [(&str, Option<u32>); 8] = [
    ("mistral", None),
    ("gemma2", None),
    ("gemma3", None),
    ("gemma4_31b", None),
    ("phi3", None),
    ("phi4mini", Some(512)),
    ("smollm3", None),
    ("ministral3", None),
];

/// Those with experts, and the activations that quantized ones need; see `conformance.rs`.
const EXPERTS: [(&str, Activations); 17] = [
    ("mixtral", Activations::INT8),
    ("gemma4_26b", Activations::INT8),
    ("gemma4_26b_vl", Activations::INT8),
    ("qwen3_moe", Activations::INT8),
    ("gpt_oss", Activations::INT8),
    ("gpt_oss_mxfp4", Activations::INT16),
    ("glm4_moe", Activations::INT8),
    ("deepseek_v3", Activations::INT8),
    ("glm4_moe_lite", Activations::INT8),
    ("mistral4", Activations::INT8),
    ("mistral4_vl", Activations::INT8),
    ("llama4_scout", Activations::INT8),
    ("llama4_scout_vl", Activations::INT8),
    ("llama4_maverick", Activations::INT8),
    ("qwen3_next", Activations::INT8),
    ("qwen35_moe", Activations::INT8),
    ("qwen35_moe_vl", Activations::INT8),
];

#[test]
fn directories_with_experts_reproduce_the_golden_numbers() {
    for (family, activations) in EXPERTS {
        let Some(path) = tiny_directory(family) else {
            println!("not run: {family} as safetensors, which is not here");
            continue;
        };
        for (weights, min_gap) in [(Weights::Float32, 0.0), (Weights::Packed, 0.1)] {
            let options = EngineOptions { weights, activations, ..options() };
            let handle = start(&path, &options, &[]);
            let mut distance = Distance::default();
            let differs = |prompt: &String| {
                let golden = golden_of(family);
                first_difference(&handle, &golden, prompt, min_gap, &mut distance).is_some()
            };
            let num_others = prompts().into_iter().filter(differs).count();
            println!("{family} {}: mean {}, {distance:?}", weights.name(), distance.mean());
            let (largest, mean) = (distance.largest, distance.mean());
            match weights {
                Weights::Float32 => assert!(largest <= 2e-3 && num_others == 0, "{family}"),
                // Rounding may lead a row to another expert.
                Weights::Packed => assert!(mean < 0.05 && num_others <= 1, "{family}"),
            }
        }
    }
}

/// Of a family that need not be committed.
fn golden_of(family: &str) -> Safetensors {
    let committed = repository(&format!("tests/data/conformance/{family}.safetensors"));
    let beside = format!("../shared/data/conformance/models/{family}/golden.safetensors");
    let path = if committed.exists() { committed } else { repository(&beside) };
    Safetensors::open(&path)
}

#[test]
fn directories_reproduce_the_golden_numbers() {
    let first = FAMILIES.into_iter().chain(BESIDE).map(|family| (family, None));
    for (family, max_model_len) in first.chain(OTHERS) {
        let Some(path) = tiny_directory(family) else {
            println!("not run: {family} as safetensors, which is not here");
            continue;
        };
        for (weights, min_gap) in [(Weights::Float32, 0.0), (Weights::Packed, 0.1)] {
            let options = EngineOptions { weights, max_model_len, ..options() };
            let handle = start(&path, &options, &[]);
            let mut distance = Distance::default();
            for prompt in prompts() {
                check_prompt(&handle, &golden_of(family), &prompt, min_gap, &mut distance);
            }
            println!("{family} {}: mean {}, {distance:?}", weights.name(), distance.mean());
            match weights {
                Weights::Float32 => assert!(distance.largest <= 2e-3, "{family}: {distance:?}"),
                Weights::Packed => assert!(distance.mean() < 0.05, "{family}: {distance:?}"),
            }
        }
    }
}

#[test]
fn a_directory_answers_as_the_file_that_was_made_of_it() {
    let options = EngineOptions { weights: Weights::Float32, ..options() };
    for family in FAMILIES {
        let Some(directory) = tiny_directory(family) else { continue };
        let handles = [tiny_model(family), directory].map(|path| start(&path, &options, &[]));
        for prompt in prompts() {
            let params = SamplingParams {
                logprobs: Some(VOCAB_SIZE),
                prompt_logprobs: Some(0),
                ..SamplingParams::greedy(16)
            };
            let ids = open(family).ids(&format!("{prompt}.input_ids"));
            let [file, directory] =
                handles.each_ref().map(|handle| ask(handle, &ids, params.clone()));
            assert_eq!(file.ids(), directory.ids(), "{family} {prompt}");
            let all = |answer: &Answer| -> Vec<TokenLogprobs> {
                let prompt = answer.started.prompt_logprobs.iter().flatten();
                prompt
                    .chain(answer.tokens.iter().flat_map(|token| &token.logprobs))
                    .cloned()
                    .collect()
            };
            for (a, b) in all(&file).iter().zip(&all(&directory)) {
                assert!((a.logprob - b.logprob).abs() <= 1e-4, "{family} {prompt}: {a:?}, {b:?}");
                let value_of =
                    |id: u32| b.top.iter().find(|(other, _)| *other == id).expect("all tokens").1;
                let is_close = |&(id, value): &(u32, f32)| (value - value_of(id)).abs() <= 1e-4;
                assert!(a.top.iter().all(is_close), "{family} {prompt}");
            }
        }
    }
}

fn open(family: &str) -> Safetensors {
    Safetensors::open(&repository(&format!("tests/data/conformance/{family}.safetensors")))
}
