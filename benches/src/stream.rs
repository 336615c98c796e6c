//! One streamed chat completion and its times.

use std::io::BufRead;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::json;

use crate::http::{BaseUrl, post, read_line};

/// What every request of a run shares.
#[derive(Clone, Debug)]
pub struct Target {
    pub url: BaseUrl,
    pub model: String,
    pub max_tokens: usize,
    /// Longest silence of the server.
    pub timeout: Duration,
}

/// The times of one answer. Definitions are those of vLLM's benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// From sending to the first chunk with content.
    pub time_to_first_token: Duration,
    /// Gaps between chunks with content.
    pub gaps: Vec<Duration>,
    /// From sending to the last chunk with content.
    pub latency: Duration,
    pub num_prompt_tokens: usize,
    pub num_output_tokens: usize,
}

impl Answer {
    /// Seconds a token after the first; `None` for a single token.
    pub fn time_per_output_token(&self) -> Option<f64> {
        let later_tokens = self.num_output_tokens.checked_sub(1).filter(|&tokens| tokens > 0)?;
        Some(
            self.latency.saturating_sub(self.time_to_first_token).as_secs_f64()
                / later_tokens as f64,
        )
    }
}

/// Sends a prompt, greedy, to the full `max_tokens`. An answer of another length is an error: it would flatter.
pub fn chat(target: &Target, prompt: &str) -> anyhow::Result<Answer> {
    let body = json!({
        "model": target.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": target.max_tokens,
        "temperature": 0,
        "ignore_eos": true,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    let start = Instant::now();
    let events =
        post(&target.url, "/v1/chat/completions", body.to_string().as_bytes(), target.timeout)?;
    let answer = read_answer(events, || start.elapsed())?;
    ensure!(
        answer.num_output_tokens == target.max_tokens,
        "{} tokens instead of {}",
        answer.num_output_tokens,
        target.max_tokens
    );
    Ok(answer)
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
}

/// Servers differ in what they call the text before the answer.
#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning: Option<String>,
    reasoning_content: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
}

impl Chunk {
    fn has_content(&self) -> bool {
        self.choices.iter().any(|Choice { delta }| {
            let texts = [&delta.content, &delta.reasoning, &delta.reasoning_content];
            texts.into_iter().flatten().any(|text| !text.is_empty())
        })
    }
}

/// Reads server-sent events to `[DONE]`; `now` is the time since sending.
fn read_answer(mut events: impl BufRead, now: impl Fn() -> Duration) -> anyhow::Result<Answer> {
    let mut times = Vec::new();
    let mut usage = None;
    loop {
        let line = read_line(&mut events)?.context("the stream ended before [DONE]")?;
        let time = now();
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
        if data == "[DONE]" {
            break;
        }
        let chunk: Chunk = serde_json::from_str(data).with_context(|| format!("chunk {data}"))?;
        if let Some(error) = &chunk.error {
            bail!("the server says {error}");
        }
        if chunk.has_content() {
            times.push(time);
        }
        usage = chunk.usage.or(usage);
    }
    let (Some(&first), Some(&last)) = (times.first(), times.last()) else {
        bail!("the answer is empty");
    };
    let usage = usage.context("no chunk has the usage")?;
    Ok(Answer {
        time_to_first_token: first,
        gaps: times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect(),
        latency: last,
        num_prompt_tokens: usage.prompt_tokens,
        num_output_tokens: usage.completion_tokens,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Every line takes 10 ms.
    fn read(text: &str) -> anyhow::Result<Answer> {
        let lines = Cell::new(0);
        read_answer(text.as_bytes(), || {
            lines.set(lines.get() + 1);
            Duration::from_millis(10 * lines.get())
        })
    }

    const ROLE: &str = r#"data: {"choices":[{"delta":{"role":"assistant","content":""}}]}"#;
    const TEXT: &str = r#"data: {"choices":[{"delta":{"content":"a"}}],"usage":null}"#;
    const THOUGHT: &str = r#"data: {"choices":[{"delta":{"reasoning_content":"b"}}]}"#;
    const USAGE: &str = r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}"#;

    #[test]
    fn only_chunks_with_content_are_timed() {
        let text = [ROLE, TEXT, "", ": comment", THOUGHT, TEXT, USAGE, "data: [DONE]"].join("\n");
        let milliseconds = Duration::from_millis;
        let answer = read(&text).expect("a whole answer");
        let expected = Answer {
            time_to_first_token: milliseconds(20),
            gaps: vec![milliseconds(30), milliseconds(10)],
            latency: milliseconds(60),
            num_prompt_tokens: 7,
            num_output_tokens: 5,
        };
        assert_eq!(answer, expected);
        assert_eq!(answer.time_per_output_token(), Some(0.01));
    }

    #[test]
    fn broken_streams_are_errors() {
        let error = r#"data: {"error":{"message":"busy"}}"#;
        let streams: [(&[&str], &str); 5] = [
            (&[TEXT, USAGE], "before [DONE]"),
            (&[ROLE, USAGE, "data: [DONE]"], "empty"),
            (&[TEXT, "data: [DONE]"], "usage"),
            (&[TEXT, error], "busy"),
            (&["data: {", "data: [DONE]"], "chunk"),
        ];
        for (lines, words) in streams {
            let error = format!("{:#}", read(&lines.join("\n")).expect_err(words));
            assert!(error.contains(words), "{error}");
        }
    }
}
