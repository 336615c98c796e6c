//! OpenAI's streamed completions, with and without chat.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Ask, Event, TargetOptions, Usage, garbage};
use crate::harness::failure::{Failure, FailureKind};

pub(super) fn chat(options: &TargetOptions, ask: Ask<'_>) -> Value {
    body(options, ask, "messages", json!(ask.messages))
}

pub(super) fn completion(options: &TargetOptions, ask: Ask<'_>) -> Value {
    let texts: Vec<&str> = ask.messages.iter().map(|message| message.content.as_str()).collect();
    body(options, ask, "prompt", Value::String(texts.join("\n")))
}

fn body(options: &TargetOptions, ask: Ask<'_>, name: &str, prompt: Value) -> Value {
    let mut body = json!({
        "model": options.model,
        "max_tokens": ask.max_tokens,
        "temperature": options.temperature,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    body[name] = prompt;
    if options.ignores_end {
        // Not OpenAI's own; servers of open models know it.
        body["ignore_eos"] = Value::Bool(true);
    }
    body
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Told>,
    error: Option<Value>,
}

/// Of a chat the delta, of a completion the text.
#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    text: Option<String>,
}

/// Servers differ in what they call the text before the answer.
#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning: Option<String>,
    reasoning_content: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
struct Told {
    prompt_tokens: usize,
    completion_tokens: usize,
}

/// What a line of server-sent events says; comments and blank lines say nothing.
pub(super) fn event(line: &str) -> Result<Event, Failure> {
    let Some(data) = line.strip_prefix("data:").map(str::trim) else {
        // Fields of the format that say nothing here.
        let is_field = ["event:", "id:", "retry:", ":"].iter().any(|name| line.starts_with(name));
        if line.is_empty() || is_field {
            return Ok(Event::default());
        }
        return Err(Failure::new(FailureKind::Garbage, format!("no server-sent event: {line}")));
    };
    if data == "[DONE]" {
        return Ok(Event { is_end: true, ..Event::default() });
    }
    let chunk: Chunk = serde_json::from_str(data).map_err(|error| garbage(data, &error))?;
    if let Some(error) = &chunk.error {
        return Err(Failure::new(FailureKind::ServerError, error.to_string()));
    }
    let texts = chunk.choices.into_iter().flat_map(|Choice { delta, text }| {
        [delta.reasoning.or(delta.reasoning_content), delta.content, text]
    });
    let text: String = texts.flatten().collect();
    let usage = chunk.usage.map(|told| Usage {
        prompt_tokens: told.prompt_tokens,
        output_tokens: told.completion_tokens,
    });
    Ok(Event { text: Some(text).filter(|text| !text.is_empty()), usage, is_end: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chunks_with_content_have_text() {
        let text = |line| event(line).expect(line).text;
        assert_eq!(
            text(r#"data: {"choices":[{"delta":{"role":"assistant","content":""}}]}"#),
            None
        );
        let said = Some("a".to_owned());
        let chunks = [
            r#"data: {"choices":[{"delta":{"content":"a"}}],"usage":null}"#,
            r#"data:{"choices":[{"delta":{"reasoning_content":"a"}}]}"#,
            r#"data: {"choices":[{"text":"a"}]}"#,
        ];
        for chunk in chunks {
            assert_eq!(text(chunk), said, "{chunk}");
        }
        for nothing in ["", ": ping", "event: x"] {
            assert_eq!(event(nothing), Ok(Event::default()));
        }
        let usage = r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}"#;
        let told = Usage { prompt_tokens: 7, output_tokens: 5 };
        assert_eq!(event(usage).expect("usage").usage, Some(told));
        assert!(event("data: [DONE]").expect("the end").is_end);
    }

    #[test]
    fn garbage_and_errors_are_told_apart() {
        let kind = |line| event(line).expect_err(line).kind;
        assert_eq!(kind("data: {"), FailureKind::Garbage);
        assert_eq!(kind("<html>"), FailureKind::Garbage);
        assert_eq!(kind(r#"data: {"usage":{"prompt_tokens":-1}}"#), FailureKind::Garbage);
        assert_eq!(kind(r#"data: {"error":{"message":"busy"}}"#), FailureKind::ServerError);
    }
}
