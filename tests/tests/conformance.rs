//! Tiny models with golden numbers of a reference implementation, in float32 and in the default mode.

use quire_engine::config::Weights;
use quire_engine::{EngineHandle, EngineOptions, GgufFile, SamplingParams};
use quire_tests::gguf_keys::{KeyValue, with_keys};
use quire_tests::safetensors::Safetensors;
use quire_tests::{ask, options, repository, start_file};

const VOCAB_SIZE: u32 = 512;

/// A tiny model.
struct Family {
    name: &'static str,
    /// In this repository; the others are tried where all of them lie beside it.
    is_committed: bool,
    /// Keys that the file's converter left out, because llama.cpp assumes their values or does without.
    missing_keys: &'static [(&'static str, KeyValue)],
    max_model_len: Option<u32>,
}

const COMMITTED: Family =
    Family { name: "", is_committed: true, missing_keys: &[], max_model_len: None };
const BESIDE: Family = Family { is_committed: false, ..COMMITTED };

const FAMILIES: [Family; 13] = [
    Family { name: "llama3", ..COMMITTED },
    Family { name: "llama3_k256", ..COMMITTED },
    Family { name: "smollm2", ..COMMITTED },
    Family { name: "qwen2", ..COMMITTED },
    Family { name: "qwen3", ..COMMITTED },
    Family { name: "gemma3", ..COMMITTED },
    // The golden numbers have the factors of contexts up to 512, which a longer limit would replace.
    Family { name: "phi4mini", max_model_len: Some(512), ..COMMITTED },
    Family { name: "ministral3", ..COMMITTED },
    Family {
        name: "mistral",
        missing_keys: &[("llama.attention.sliding_window", KeyValue::U32(48))],
        ..BESIDE
    },
    Family {
        name: "gemma2",
        missing_keys: &[("gemma2.attention.scale", KeyValue::F32(0.204_124_15))],
        ..BESIDE
    },
    Family { name: "gemma4_31b", ..BESIDE },
    Family { name: "phi3", ..BESIDE },
    Family { name: "smollm3", ..BESIDE },
];

impl Family {
    /// The model and its golden numbers; `None` where they are not there.
    fn open(&self) -> Option<(GgufFile, Safetensors)> {
        let name = self.name;
        let committed = repository("tests/data/conformance");
        let beside = repository("../shared/data/conformance");
        let (model, golden) = if self.is_committed {
            (committed.join(format!("{name}.gguf")), committed.join(format!("{name}.safetensors")))
        } else {
            let golden = beside.join(format!("models/{name}/golden.safetensors"));
            (beside.join(format!("gguf/{name}-f32.gguf")), golden)
        };
        if !self.is_committed && !model.exists() {
            return None;
        }
        let bytes = std::fs::read(&model).expect("the model is readable");
        let bytes = with_keys(&bytes, self.missing_keys);
        let file = GgufFile::from_bytes(&model, bytes).expect("a valid file");
        Some((file, Safetensors::open(&golden)))
    }

    fn start(&self, file: &GgufFile, weights: Weights) -> EngineHandle {
        let max_model_len = self.max_model_len;
        start_file(file, &EngineOptions { weights, max_model_len, ..options() }, &[])
    }
}

/// How far log probabilities of one run lie from the golden ones.
#[derive(Debug, Default)]
struct Distance {
    largest: f32,
    sum: f64,
    count: usize,
}

impl Distance {
    fn add(&mut self, got: f32, want: f32) {
        self.largest = self.largest.max((got - want).abs());
        self.sum += f64::from((got - want).abs());
        self.count += 1;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

#[test]
fn float32_reproduces_the_golden_numbers() {
    for family in FAMILIES {
        let Some((file, golden)) = family.open() else {
            println!("{}: not run, for it is not beside the repository", family.name);
            continue;
        };
        let handle = family.start(&file, Weights::Float32);
        let mut distance = Distance::default();
        for prompt in prompts() {
            check_prompt(&handle, &golden, &prompt, 0.0, &mut distance);
        }
        println!("{} float32: {distance:?}", family.name);
        assert!(distance.largest <= 2e-3, "{}: {distance:?}", family.name);
    }
}

#[test]
fn the_default_mode_stays_close() {
    for family in FAMILIES {
        let Some((file, golden)) = family.open() else {
            println!("{}: not run, for it is not beside the repository", family.name);
            continue;
        };
        let handle = family.start(&file, Weights::Packed);
        let mut distance = Distance::default();
        for prompt in prompts() {
            check_prompt(&handle, &golden, &prompt, 0.1, &mut distance);
        }
        println!("{} packed: mean {}, {distance:?}", family.name, distance.mean());
        assert!(distance.mean() < 0.05, "{}: {distance:?}", family.name);
    }
}

fn prompts() -> Vec<String> {
    (0..6).map(|index| format!("p{index}")).collect()
}

/// Prompt log probabilities, 16 greedy tokens and the whole distribution at each, against the golden ones.
/// Where the golden logits of the two likeliest lie within `min_gap`, the token may differ, and the rest is skipped.
fn check_prompt(
    handle: &EngineHandle,
    golden: &Safetensors,
    prompt: &str,
    min_gap: f32,
    distance: &mut Distance,
) {
    let params = SamplingParams {
        logprobs: Some(VOCAB_SIZE),
        prompt_logprobs: Some(0),
        ..SamplingParams::greedy(16)
    };
    let answer = ask(handle, &golden.ids(&format!("{prompt}.input_ids")), params);
    let next = match golden.contains(&format!("{prompt}.next_logprob")) {
        true => golden.f32(&format!("{prompt}.next_logprob")),
        false => Vec::new(),
    };
    let computed = answer.started.prompt_logprobs.iter().flatten();
    assert_eq!(computed.clone().count(), next.len(), "{prompt}: prompt log probabilities");
    computed.zip(&next).for_each(|(entry, &want)| distance.add(entry.logprob, want));

    let greedy_ids = golden.ids(&format!("{prompt}.greedy_ids"));
    let greedy_logits = golden.f32(&format!("{prompt}.greedy_logits"));
    assert_eq!(answer.tokens.len(), greedy_ids.len());
    let steps = greedy_logits.chunks(VOCAB_SIZE as usize).zip(&answer.tokens).zip(&greedy_ids);
    for (step, ((logits, output), &id)) in steps.enumerate() {
        if gap(logits) < min_gap {
            return;
        }
        assert_eq!(output.token, id, "{prompt}, greedy step {step}");
        let logsumexp = logits.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
        let top = &output.logprobs.as_ref().expect("asked for").top;
        assert_eq!(top.len(), VOCAB_SIZE as usize, "the whole distribution");
        for &(token, logprob) in top {
            distance.add(logprob, (f64::from(logits[token as usize]) - logsumexp) as f32);
        }
    }
}

fn gap(logits: &[f32]) -> f32 {
    let mut sorted = logits.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted[sorted.len() - 1] - sorted[sorted.len() - 2]
}
