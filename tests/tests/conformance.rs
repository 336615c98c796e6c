//! Tiny models with golden numbers of a reference implementation, in float32 and in the default mode.

use quire_engine::config::{Activations, Weights};
use quire_engine::weights::ModelFiles;
use quire_engine::{EngineHandle, EngineOptions, GgufFile};
use quire_tests::distance::{Distance, check_prompt, first_difference, prompts};
use quire_tests::gguf_keys::{KeyValue, with_keys};
use quire_tests::safetensors::Safetensors;
use quire_tests::{options, repository, start_files};

/// A tiny model.
struct Family {
    name: &'static str,
    /// In this repository; the others are tried where all of them lie beside it.
    is_committed: bool,
    /// Keys that the file's converter left out, because llama.cpp assumes their values or does without.
    missing_keys: &'static [(&'static str, KeyValue)],
    max_model_len: Option<u32>,
    /// Rounding may lead a row to another expert, whose output has nothing of the first's.
    has_experts: bool,
    /// Of quantized weights. 8 bits would lead rows of these random models to other experts too often.
    activations: Activations,
}

const COMMITTED: Family = Family {
    name: "",
    is_committed: true,
    missing_keys: &[],
    max_model_len: None,
    has_experts: false,
    activations: Activations::INT8,
};
const BESIDE: Family = Family { is_committed: false, ..COMMITTED };
const COMMITTED_EXPERTS: Family = Family { has_experts: true, ..COMMITTED };
const BESIDE_EXPERTS: Family = Family { has_experts: true, ..BESIDE };

const LLAMA4_KEYS: &[(&str, KeyValue)] = &[
    ("llama4.attention.chunk_size", KeyValue::U32(64)),
    ("llama4.attention.temperature_length", KeyValue::U32(32)),
];

const FAMILIES: [Family; 28] = [
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
    Family { name: "qwen35_vl", ..COMMITTED },
    Family { name: "qwen35_moe_vl", ..BESIDE_EXPERTS },
    Family { name: "gemma4_31b", ..BESIDE },
    Family { name: "mixtral", ..BESIDE_EXPERTS },
    Family { name: "qwen3_moe", ..BESIDE_EXPERTS },
    Family { name: "gpt_oss", ..BESIDE_EXPERTS },
    Family { name: "gpt_oss_mxfp4", activations: Activations::INT16, ..COMMITTED_EXPERTS },
    Family { name: "glm4_moe", ..BESIDE_EXPERTS },
    Family { name: "deepseek_v3", ..COMMITTED_EXPERTS },
    Family { name: "glm4_moe_lite", ..BESIDE_EXPERTS },
    Family {
        name: "mistral4_vl",
        missing_keys: &[("mistral4.attention.temperature_scale", KeyValue::F32(0.1))],
        ..BESIDE_EXPERTS
    },
    Family { name: "llama4_scout", ..COMMITTED_EXPERTS },
    Family { name: "llama4_scout_vl", missing_keys: LLAMA4_KEYS, ..BESIDE_EXPERTS },
    Family { name: "llama4_maverick", missing_keys: LLAMA4_KEYS, ..BESIDE_EXPERTS },
    Family { name: "gemma4_26b", ..COMMITTED_EXPERTS },
    Family { name: "gemma4_26b_vl", ..BESIDE_EXPERTS },
    Family { name: "phi3", ..BESIDE },
    Family { name: "smollm3", ..BESIDE },
];

impl Family {
    /// The model and its golden numbers; `None` where they are not there.
    fn open(&self) -> Option<(ModelFiles, Safetensors)> {
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
        Some((file.into(), Safetensors::open(&golden)))
    }

    fn start(&self, files: &ModelFiles, weights: Weights) -> EngineHandle {
        let (max_model_len, activations) = (self.max_model_len, self.activations);
        let options = EngineOptions { weights, activations, max_model_len, ..options() };
        start_files(files, &options, &[])
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
        let prompts = prompts().into_iter();
        let others: Vec<(String, usize)> = prompts
            .filter_map(|prompt| {
                let step = first_difference(&handle, &golden, &prompt, 0.1, &mut distance)?;
                Some((prompt, step))
            })
            .collect();
        let most = usize::from(family.has_experts);
        assert!(others.len() <= most, "{}: other tokens at {others:?}", family.name);
        println!("{} packed: mean {}, {distance:?}", family.name, distance.mean());
        assert!(distance.mean() < 0.05, "{}: {distance:?}", family.name);
    }
}
