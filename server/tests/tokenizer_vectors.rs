//! Real vocabularies against recorded token ids. `make tokenizers` brings the
//! vocabularies; where it was never run they are named in the output.

mod fetched;

use std::path::Path;
use std::sync::Arc;

use quire_engine::weights::gguf::GgufFile;
use quire_server::text::{
    ChatInput, Detokenizer, SpecialTokens, TemplateOptions, TextPipeline, Tokenizer,
};
use serde_json::json;

const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

#[test]
fn vocabularies_reproduce_the_recorded_ids() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("server has a parent");
    let data = root.join("tests/data/tokenizers");
    let mut names: Vec<String> = std::fs::read_dir(&data)
        .expect("tests/data/tokenizers is part of the repository")
        .filter_map(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            Some(name.strip_suffix(".inp")?.to_owned())
        })
        .collect();
    names.sort();
    assert!(names.len() >= 10, "test vectors are missing: {names:?}");
    let mut failures = Vec::new();
    for name in &names {
        let Some(path) = fetched::fetched(&format!("ggml-vocab-{name}.gguf")) else { continue };
        failures.extend(check(name, &path, &data));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check(name: &str, path: &Path, data: &Path) -> Vec<String> {
    let read = |kind: &str| {
        std::fs::read_to_string(data.join(format!("{name}.{kind}"))).expect("vectors are UTF-8")
    };
    let file = GgufFile::open(path).expect("the vocabulary is a GGUF file");
    let tokenizer = Arc::new(Tokenizer::from_gguf(file.metadata()).expect("a known tokenizer"));
    let (inputs, outputs) = (read("inp"), read("out"));
    let mut failures = Vec::new();
    let mut num_cases = 0;
    for (input, line) in inputs.split(SEPARATOR).zip(outputs.lines()) {
        num_cases += 1;
        let expected: Vec<u32> =
            line.split_whitespace().map(|id| id.parse().expect("ids are numbers")).collect();
        let ids = tokenizer.encode(input, SpecialTokens::AsText);
        if ids != expected {
            failures.push(format!("{name}: {input:?}\n  is   {ids:?}\n  want {expected:?}"));
        }
        let loses_text = name.starts_with("bert");
        let decoded = Detokenizer::decode(&tokenizer, &ids, true);
        if !loses_text && decoded != input {
            failures.push(format!("{name}: {input:?} decodes to {decoded:?}"));
        }
    }
    assert!(num_cases >= 46, "{name} has only {num_cases} cases");
    failures
}

/// Ids that the model's own tokenizer and template give, between those that all chats share.
const SMOLLM2_CHATS: &[(&str, &[u32])] = &[
    ("What is the capital of France?", &[1780, 314, 260, 3575, 282, 4649, 47]),
    ("Write a haiku about the sea.", &[19161, 253, 421, 30614, 563, 260, 3426, 30]),
    ("Count from 1 to 20.", &[9825, 429, 216, 33, 288, 216, 34, 32, 30]),
    (
        "Explain what a hash map is in two sentences.",
        &[36971, 732, 253, 15345, 4141, 314, 281, 827, 8545, 30],
    ),
];
const SMOLLM2_BEFORE: &[u32] = &[
    1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407,
    19712, 8182, 2, 198, 1, 4093, 198,
];
const SMOLLM2_AFTER: &[u32] = &[2, 198, 1, 520, 9531, 198];

#[test]
fn smollm2_chats_reproduce_the_recorded_ids() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("server has a parent");
    let path = root.join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.is_file(), "{} is missing: run `make model`", path.display());
    let file = GgufFile::open(&path).expect("the model is a GGUF file");
    let pipeline = TextPipeline::from_gguf(file.metadata(), &TemplateOptions::default()).unwrap();
    for (text, expected) in SMOLLM2_CHATS {
        let input = ChatInput {
            messages: vec![json!({"role": "user", "content": text})],
            add_generation_prompt: true,
            ..ChatInput::default()
        };
        let ids = pipeline.encode_chat(&input).unwrap();
        assert_eq!(ids, [SMOLLM2_BEFORE, expected, SMOLLM2_AFTER].concat(), "{text}");
    }
}
