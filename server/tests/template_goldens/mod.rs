//! Real chat templates print byte for byte what transformers prints with them. `make tokenizers` brings the templates;
//! where it was never run they are named in the output.

mod calls;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fetched::fetched;
use crate::tiny_vocabularies::byte_bpe;
use quire_server::text::{ChatInput, ChatTemplate, TemplateError, TemplateOptions, TemplateTokens};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// 2026-11-20, 10:30 UTC.
const NOW: i64 = 1_795_170_600;

/// Template and conversations whose prompts differ: jinja2 escapes what is added to a string behind `| safe` as HTML.
const ESCAPED: (&str, [&str; 2]) = ("meetkai-functionary-medium-v3.1", ["tools", "tool call"]);

/// The same where the template takes thoughts as parts of the content alone, which we give it.
const GIVEN_THOUGHTS: (&str, [&str; 1]) = ("mistralai-Ministral-3-14B-Reasoning-2512", ["thought"]);

/// Fewer would mean that the goldens were lost.
const LEAST_TEMPLATES: usize = 60;

#[test]
fn real_templates_print_what_transformers_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("server has a parent");
    let data = root.join("tests/data/templates");
    let golden = object(&data.join("golden.json"));
    let conversations = object(&data.join("conversations.json"));
    let tools = json(&data.join("tools.json"));
    assert!(golden.len() >= LEAST_TEMPLATES, "{} templates", golden.len());
    let mut differences = String::new();
    for (name, expected) in &golden {
        let Some(path) = fetched(&format!("templates/{name}.jinja")) else { continue };
        let source = fs::read_to_string(path).expect("templates are UTF-8");
        assert_eq!(sha256(&source), expected["source"], "{name} is another template");
        let template = load(&source);
        for (conversation, input) in &conversations {
            let differs = [(ESCAPED.0, &ESCAPED.1[..]), (GIVEN_THOUGHTS.0, &GIVEN_THOUGHTS.1[..])];
            if differs.iter().any(|(own, all)| name == own && all.contains(&conversation.as_str()))
            {
                continue;
            }
            if let Err(difference) = check(&template, input, &tools, &expected[conversation]) {
                writeln!(differences, "== {name}, {conversation}: {difference}").unwrap();
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// Either side may refuse a conversation that the other one's machinery fails at, but not with other words.
fn check(
    template: &Result<ChatTemplate, TemplateError>,
    conversation: &Value,
    tools: &Value,
    expected: &Value,
) -> Result<(), String> {
    if !expected["fails"].is_null() {
        return Ok(());
    }
    let template = template.as_ref().map_err(ToString::to_string)?;
    match (template.render(&input(conversation, tools)), expected["raises"].as_str()) {
        (Ok(prompt), Some(message)) => Err(format!("no {message:?} but\n{}", prompt.text)),
        (Ok(prompt), None) if sha256(&prompt.text) == *expected => Ok(()),
        (Ok(prompt), None) => Err(format!("another prompt\n{}", prompt.text)),
        (Err(TemplateError::Raised(text)), Some(message)) if text == message => Ok(()),
        // What is undefined is said in other words.
        (Err(TemplateError::Render(_)), Some(message)) if message.contains("is ") => Ok(()),
        (Err(error), expected) => Err(format!("{error} (expected {expected:?})")),
    }
}

fn input(conversation: &Value, tools: &Value) -> ChatInput {
    ChatInput {
        messages: conversation["messages"].as_array().expect("a list").clone(),
        tools: conversation.get("tools").map(|_| tools.clone()),
        add_generation_prompt: conversation["add_generation_prompt"] == true,
        kwargs: conversation["kwargs"].as_object().cloned().unwrap_or_default(),
        unix_seconds: NOW,
        ..ChatInput::default()
    }
}

fn load(source: &str) -> Result<ChatTemplate, TemplateError> {
    let tokens = TemplateTokens {
        bos: "<s>".to_owned(),
        eos: "</s>".to_owned(),
        unk: None,
        pad: None,
        control: Arc::clone(byte_bpe("qwen2").control_texts()),
    };
    ChatTemplate::new(source, tokens, TemplateOptions::default())
}

fn json(path: &PathBuf) -> Value {
    let text = fs::read_to_string(path).expect("part of the repository");
    serde_json::from_str(&text).expect("JSON")
}

fn object(path: &PathBuf) -> Map<String, Value> {
    json(path).as_object().expect("an object").clone()
}

/// Its first 16 digits.
fn sha256(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest[..8].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
