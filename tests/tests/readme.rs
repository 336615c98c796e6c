//! The table of families and formats in README.md is what the tests run: `QUIRE_BLESS=1 cargo test -p quire-tests --test
//! readme` writes it anew.

use std::fmt::Write;
use std::fs;

use quire_engine::models::{Supported, supported};
use quire_tests::families::{ENCODERS, FAMILIES, Family, Home};
use quire_tests::repository;

const BEGIN: &str = "<!-- Written by tests/tests/readme.rs. -->\n";
const END: &str = "<!-- End of what is written. -->\n";

/// What people call the models of an architecture.
const NAMES: &[(&str, &str)] = &[
    ("llama", "Llama 2 to 3.3, Mistral 7B, Mixtral, SmolLM2"),
    ("llama4", "Llama 4"),
    ("qwen2", "Qwen2, Qwen2.5"),
    ("qwen2moe", "Qwen2 with experts"),
    ("qwen3", "Qwen3"),
    ("qwen3moe", "Qwen3 with experts"),
    ("qwen3next", "Qwen3-Next"),
    ("qwen35", "Qwen3.5, Qwen3.6"),
    ("qwen35moe", "Qwen3.5, Qwen3.6 with experts"),
    ("gemma2", "Gemma 2"),
    ("gemma3", "Gemma 3"),
    ("gemma4", "Gemma 4 (E2B, E4B, 31B, 26B-A4B)"),
    ("deepseek2", "DeepSeek-V3, GLM-4.7-Flash"),
    ("deepseek32", "DeepSeek-V3.2"),
    ("glm-dsa", "GLM-5"),
    ("mistral4", "Mistral Small 4"),
    ("glm4moe", "GLM-4.5 to 4.7"),
    ("gpt-oss", "gpt-oss"),
    ("phi3", "Phi-3, Phi-4-mini"),
    ("smollm3", "SmolLM3"),
    ("mistral3", "Ministral 3"),
    ("bert", "Embeddings: BERT, MiniLM, BGE, E5, (XLM-)RoBERTa"),
    ("modern-bert", "Embeddings: ModernBERT"),
    ("nomic-bert", "Embeddings: Nomic"),
];

fn families() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().chain(ENCODERS)
}

fn name_of(architecture: &'static str) -> &'static str {
    let found = NAMES.iter().find(|(name, _)| *name == architecture);
    found.map_or(architecture, |(_, name)| name)
}

/// One line for each architecture.
fn table() -> String {
    let mut out = String::from(
        "| Models | GGUF | Directory (`model_type`) | Golden numbers: GGUF | Golden numbers: directory |\n\
         |---|---|---|---|---|\n",
    );
    for Supported { architecture, has_gguf, model_types } in supported() {
        let of_it = || families().filter(|family| family.architecture == architecture);
        let list = |home: fn(&Family) -> Home| {
            let tested = of_it().filter(|family| home(family) != Home::Nowhere);
            tested.map(|family| family.name).collect::<Vec<_>>().join(", ")
        };
        let gguf = if has_gguf { format!("`{architecture}`") } else { String::new() };
        let types: Vec<String> = model_types.iter().map(|name| format!("`{name}`")).collect();
        let (models, types) = (name_of(architecture), types.join(", "));
        let (files, directories) = (list(|family| family.gguf), list(|family| family.directory));
        writeln!(out, "| {models} | {gguf} | {types} | {files} | {directories} |")
            .expect("a string grows");
    }
    out
}

#[test]
fn the_table_of_families_is_up_to_date() {
    let path = repository("README.md");
    let text = fs::read_to_string(&path).expect("README.md is there");
    let (before, rest) = text.split_once(BEGIN).expect("README.md has the place");
    let (found, after) = rest.split_once(END).expect("README.md has the end of the place");
    let expected = table();
    if std::env::var_os("QUIRE_BLESS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).expect("writable");
        return;
    }
    assert_eq!(found, expected, "run QUIRE_BLESS=1 cargo test -p quire-tests --test readme");
}

/// What the table claims is what the files say, where they are.
#[test]
fn families_are_of_the_architecture_that_the_table_says() {
    for family in families() {
        if let Some(files) = family.open_gguf() {
            assert_eq!(files.architecture(), Some(family.architecture), "{}", family.name);
        }
        if let Some(directory) = family.directory() {
            let files = quire_engine::ModelFiles::open(&directory).expect("it opens");
            let model_type = files.architecture().expect("a model_type");
            let found = supported().into_iter().find(|it| it.model_types.contains(&model_type));
            let architecture = found.map(|it| it.architecture);
            assert_eq!(architecture, Some(family.architecture), "{}", family.name);
        }
    }
}
