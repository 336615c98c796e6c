//! Tokenizers, templates and roles of model directories: as their own implementation has them, or refused.
#![allow(clippy::unwrap_used, reason = "a helper that cannot go on fails its test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use quire_engine::weights::gguf::GgufFile;
use quire_server::text::{
    ChatInput, Detokenizer, SpecialTokens, TemplateOptions, TextFiles, TextPipeline, Tokenizer,
};
use serde_json::{Value, json};

/// A folder of one test's own, removed when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &Value)]) -> Self {
        let path = std::env::temp_dir().join(format!("quire-text-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let folder = Self(path);
        files.iter().for_each(|(name, value)| folder.write(name, &value.to_string()));
        folder
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self) -> Result<TextFiles, String> {
        let message = |error: quire_server::text::DirectoryError| {
            error.to_string().replace(&format!("{}/", self.0.display()), "")
        };
        TextFiles::read(&self.0).map_err(message)
    }

    fn pipeline(&self) -> TextPipeline {
        let files = self.read().expect("a supported tokenizer");
        TextPipeline::from_directory(&files, &TemplateOptions::default())
            .expect("a whole directory")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("server has a parent").join(path)
}

/// Tokenizers of every supported shape, each with texts and the ids of the reference.
fn references() -> Vec<Value> {
    let read = |name: &str| -> Vec<Value> {
        let text = fs::read_to_string(repository("tests/data/tokenizers").join(name));
        serde_json::from_str(&text.expect("committed")).expect("JSON")
    };
    [read("directories.json"), read("encoders.json")].concat()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn ids_are_those_of_the_reference() {
    let mut failures = Vec::new();
    for reference in references() {
        let name = reference["name"].as_str().unwrap();
        let folder = Folder::new(name, &[("tokenizer.json", &reference["tokenizer"])]);
        let pipeline = folder.pipeline();
        let tokenizer = pipeline.tokenizer();
        for case in reference["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let found = tokenizer.encode(text, SpecialTokens::Parse);
            let decoded = Detokenizer::decode(tokenizer, &found, true);
            let whole = pipeline.encode_prompt(text, true);
            if found != ids(&case["ids"]) || whole != ids(&case["whole"]) {
                failures.push(format!("{name} {text:?}: {found:?}, not {}", case["ids"]));
            } else if case["decoded"].is_string() && case["decoded"] != decoded.as_str() {
                failures.push(format!("{name} {text:?}: {decoded:?}, not {}", case["decoded"]));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_directory_and_its_gguf_file_have_the_same_ids(text in "(<\\|im_end\\|>|[a-z ]{1,8}|\\PC|\\s){0,24}") {
        let (directory, file) = tiny_tokenizers();
        for special in [SpecialTokens::AsText, SpecialTokens::Parse] {
            let ids = directory.encode(&text, special);
            prop_assert_eq!(&ids, &file.encode(&text, special));
            let decoded = [&directory, &file].map(|tokenizer| Detokenizer::decode(tokenizer, &ids, false));
            prop_assert_eq!(&decoded[0], &text);
            prop_assert_eq!(&decoded[1], &text);
        }
    }

    #[test]
    fn no_tokenizer_file_breaks_anything(
        which in any::<usize>(),
        patches in prop::collection::vec((any::<usize>(), any::<u8>(), any::<bool>()), 1..4),
    ) {
        let references = references();
        let mut value = references[which % references.len()]["tokenizer"].clone();
        for name in ["vocab", "merges"] {
            // Most patches shall meet the rest of the file.
            shorten(&mut value["model"][name]);
        }
        let mut bytes = value.to_string().into_bytes();
        for (at, byte, is_digit) in patches {
            let at = at % bytes.len();
            bytes[at] = if is_digit { b'0' + byte % 10 } else { byte };
        }
        let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
        let folder = Folder::new(&format!("patched-{which}"), &[]);
        folder.write("tokenizer.json", &text);
        if let Ok(files) = folder.read() && let Ok(tokenizer) = Tokenizer::new(&files.tokenizer) {
            tokenizer.encode("<s>Hello  world 12345\n é中🦀</s>", SpecialTokens::Parse);
        }
    }
}

fn shorten(value: &mut Value) {
    match value {
        Value::Object(entries) => entries.retain(|name, _| name.starts_with('<')),
        Value::Array(entries) => entries.truncate(2),
        _ => {}
    }
}

fn tiny_tokenizers() -> (Arc<Tokenizer>, Arc<Tokenizer>) {
    let directory = TextFiles::read(&repository("tests/data/conformance/hf/llama3")).unwrap();
    let file = GgufFile::open(&repository("tests/data/conformance/llama3.gguf")).unwrap();
    let directory = Tokenizer::new(&directory.tokenizer).unwrap();
    (Arc::new(directory), Arc::new(Tokenizer::from_gguf(file.metadata()).unwrap()))
}

/// A valid tokenizer.json, to be spoilt.
fn tiny() -> Value {
    let path = repository("tests/data/conformance/hf/llama3/tokenizer.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn what_cannot_be_exact_is_refused() {
    let check = |spoil: &dyn Fn(&mut Value), expected: &str| {
        let mut value = tiny();
        spoil(&mut value);
        let folder = Folder::new("refused", &[("tokenizer.json", &value)]);
        let error = folder.read().err().expect(expected);
        assert!(
            error.starts_with("tokenizer.json: ") && error.contains(expected),
            "{error:?} does not say {expected:?}"
        );
    };
    check(&|v| v["model"]["type"] = json!("WordLevel"), "\"WordLevel\" tokenizers are not");
    check(&|v| v["model"]["type"] = json!("Unigram"), "model.vocab is no list");
    check(&|v| v["model"]["type"] = json!("WordPiece"), "normalizer: beside WordPiece");
    check(&|v| v["model"]["dropout"] = json!(0.1), "dropout is not supported");
    check(&|v| v["model"]["end_of_word_suffix"] = json!("</w>"), "end_of_word_suffix");
    check(&|v| v["normalizer"] = json!({"type": "Lowercase"}), "normalizer: \"Lowercase\"");
    check(&|v| v["pre_tokenizer"] = json!({"type": "Whitespace"}), "pre_tokenizer: \"Whitespace\"");
    check(&|v| v["pre_tokenizer"] = Value::Null, "without byte_fallback");
    check(&|v| v["pre_tokenizer"]["add_prefix_space"] = json!(true), "add_prefix_space");
    let look = json!({"type": "Split", "pattern": {"Regex": "a(?=b)"}, "behavior": "Isolated", "invert": false});
    check(&|v| v["pre_tokenizer"] = look.clone(), "\"a(?=b)\" uses (?=");
    let removed = json!({"type": "Split", "pattern": {"String": "a"}, "behavior": "Removed", "invert": false});
    check(&|v| v["pre_tokenizer"] = removed.clone(), "behavior \"Removed\"");
    check(&|v| v["post_processor"] = json!({"type": "BertProcessing"}), "cls has no id");
    check(&|v| v["added_tokens"][0]["single_word"] = json!(true), "single_word");
    check(
        &|v| v["added_tokens"][0]["content"] = json!("<other>"),
        "the vocabulary has \"<|endoftext|>\"",
    );
    check(
        &|v| v["added_tokens"][0]["id"] = json!(4_000_000_000_u32),
        "the largest id is 4000000000",
    );
    check(&|v| v["model"]["vocab"]["twice"] = json!(7), "the id 7 is that of");
    check(&|v| v["model"]["merges"][0] = json!(["a ", "b"]), "spaces in merges");
    let missing = Folder::new("missing", &[]).read().err().expect("no tokenizer");
    assert!(missing.contains("tokenizer.json: is missing"), "{missing}");
    let folder = Folder::new("no-json", &[]);
    folder.write("tokenizer.json", "{");
    assert!(folder.read().err().expect("no JSON").contains("EOF while parsing"));
}

#[test]
fn roles_come_from_all_files() {
    let read = |tokenizer_config: Value, model_config: Value, generation: Value| {
        let files = [
            ("tokenizer.json", &tiny()),
            ("tokenizer_config.json", &tokenizer_config),
            ("config.json", &model_config),
            ("generation_config.json", &generation),
        ];
        Tokenizer::new(&Folder::new("roles", &files).read().unwrap().tokenizer).unwrap()
    };
    let texts = json!({"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}, "pad_token": null});
    let plain = read(texts.clone(), json!({"eos_token_id": 9}), json!({}));
    assert_eq!((plain.special_ids().bos, plain.special_ids().eos), (Some(1), Some(2)));
    assert_eq!(plain.eos_token_ids(), [0, 2, 9], "by text, by role and of config.json");
    assert!(plain.prefix_tokens().is_empty());
    let switched = json!({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "add_bos_token": true, "add_eos_token": true});
    let switched = read(switched, Value::Null, json!({"eos_token_id": [5, 7, 4_000_000]}));
    assert_eq!(switched.eos_token_ids(), [0, 2, 5, 7]);
    assert_eq!((switched.prefix_tokens(), switched.suffix_tokens()), (&[1][..], &[2][..]));
    let by_id = read(Value::Null, json!({"bos_token_id": 3, "eos_token_id": [6, 8]}), Value::Null);
    assert_eq!((by_id.special_ids().bos, by_id.special_ids().eos), (Some(3), Some(6)));
    assert_eq!(by_id.eos_token_ids(), [0, 2, 6, 8]);
}

#[test]
fn templates_come_from_the_first_place_that_has_them() {
    let render = |folder: &Folder, tools: Option<Value>| {
        let messages = vec![json!({"role": "user", "content": "hi"})];
        folder
            .pipeline()
            .render_chat(&ChatInput { messages, tools, ..ChatInput::default() })
            .unwrap()
            .text
    };
    let config = json!({"chat_template": [
        {"name": "default", "template": "config {{ messages[0].content }}"},
        {"name": "tool_use", "template": "config tools"},
    ]});
    let folder = Folder::new(
        "templates",
        &[("tokenizer.json", &tiny()), ("tokenizer_config.json", &config)],
    );
    assert_eq!(render(&folder, None), "config hi");
    assert_eq!(render(&folder, Some(json!([]))), "config tools");
    folder.write(
        "chat_template.json",
        &json!({"chat_template": "json {{ messages[0].content }}"}).to_string(),
    );
    assert_eq!(render(&folder, None), "json hi");
    folder.write("chat_template.jinja", "jinja {{ messages[0].content }}");
    folder.write("additional_chat_templates/tool_use.jinja", "jinja tools");
    assert_eq!(render(&folder, None), "jinja hi");
    assert_eq!(render(&folder, Some(json!([]))), "jinja tools");
    folder.write("tokenizer_config.json", &json!({"chat_template": "{{ a"}).to_string());
    assert_eq!(render(&folder, None), "jinja hi");
}
