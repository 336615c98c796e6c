//! Ollama's streamed chats: a line of JSON a chunk.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Ask, Event, TargetOptions, Usage, garbage};
use crate::harness::failure::{Failure, FailureKind};

/// Ollama has no way to ignore the end token: `ignores_end` only makes another length a failure.
pub(super) fn chat(options: &TargetOptions, ask: Ask<'_>) -> Value {
    let sampling = json!({"num_predict": ask.max_tokens, "temperature": options.temperature});
    json!({"model": options.model, "messages": ask.messages, "stream": true, "options": sampling})
}

#[derive(Deserialize)]
struct Chunk {
    message: Option<Said>,
    #[serde(default)]
    done: bool,
    #[serde(default)]
    prompt_eval_count: usize,
    eval_count: Option<usize>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    content: String,
    #[serde(default)]
    thinking: String,
}

pub(super) fn event(line: &str) -> Result<Event, Failure> {
    if line.is_empty() {
        return Ok(Event::default());
    }
    let chunk: Chunk = serde_json::from_str(line).map_err(|error| garbage(line, &error))?;
    if let Some(error) = &chunk.error {
        return Err(Failure::new(FailureKind::ServerError, error.to_string()));
    }
    let text = chunk.message.map(|said| said.thinking + &said.content);
    let usage = chunk
        .eval_count
        .filter(|_| chunk.done)
        .map(|output_tokens| Usage { prompt_tokens: chunk.prompt_eval_count, output_tokens });
    Ok(Event { text: text.filter(|text| !text.is_empty()), usage, is_end: chunk.done })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chunks() {
        let chunk = event(r#"{"message":{"role":"assistant","content":"a"},"done":false}"#);
        assert_eq!(chunk, Ok(Event { text: Some("a".to_owned()), ..Event::default() }));
        let last =
            event(r#"{"message":{"content":""},"done":true,"prompt_eval_count":3,"eval_count":9}"#);
        let usage = Some(Usage { prompt_tokens: 3, output_tokens: 9 });
        assert_eq!(last, Ok(Event { text: None, usage, is_end: true }));
        assert_eq!(event("{").expect_err("half").kind, FailureKind::Garbage);
        assert_eq!(event(r#"{"error":"x"}"#).expect_err("told").kind, FailureKind::ServerError);
    }
}
