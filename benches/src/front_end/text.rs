//! How long a template and the tokenization of what it writes take.

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use quire_engine::ModelFiles;
use quire_server::text::{ChatInput, TemplateOptions, TextPipeline};
use serde_json::json;

use super::mock::pipeline;
use crate::statistics::median;

const NUM_TOKENS: usize = 1000;

/// Tokens of a chat, about a thousand, and the median milliseconds to write and tokenize it.
pub fn measure_text(model: &Path) -> anyhow::Result<(usize, f64)> {
    const ROUNDS: usize = 101;
    let text: TextPipeline = pipeline(&ModelFiles::open(model)?, &TemplateOptions::default())?;
    let words =
        "The quick brown fox, 42 years old, jumps over the lazy dog's fence; isn't it nice? ";
    let chat = |length: usize| ChatInput {
        messages: vec![json!({"role": "user", "content": words.repeat(length)})],
        add_generation_prompt: true,
        ..ChatInput::default()
    };
    let count =
        |length: usize| -> anyhow::Result<usize> { Ok(text.encode_chat(&chat(length))?.len()) };
    let (short, longer) = (count(1)?, count(2)?);
    ensure!(longer > short, "the template leaves the message out");
    let input = chat((NUM_TOKENS - short).div_ceil(longer - short) + 1);
    let num_tokens = text.encode_chat(&input)?.len();
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        ensure!(text.encode_chat(&input)?.len() == num_tokens, "it depends on the time");
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok((num_tokens, median(&times)))
}
