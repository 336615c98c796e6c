//! Traces: when requests came and how long they were, with words of our own.
//!
//! Mooncake's JSONL has `timestamp` (ms), `input_length`, `output_length` and `hash_ids`, an id for each 512 tokens of a prompt:
//! equal ids give equal text, so that prefixes are shared as they were. Azure's CSV has TIMESTAMP, ContextTokens, GeneratedTokens.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::Conversation;
use crate::prompts::prompt;

/// Tokens that an id of a trace stands for.
const BLOCK_TOKENS: usize = 512;
/// Longest prompt or answer.
const MAX_TOKENS: usize = 1 << 21;

#[derive(Deserialize)]
struct Line {
    timestamp: f64,
    input_length: usize,
    output_length: usize,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

pub(super) fn read(text: &str, salt: u64) -> anyhow::Result<Vec<Conversation>> {
    let is_json = text.trim_start().starts_with('{');
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate().skip(usize::from(!is_json)) {
        if line.trim().is_empty() {
            continue;
        }
        let read =
            if is_json { serde_json::from_str(line).map_err(Into::into) } else { azure(line) };
        let read: Line = read.with_context(|| format!("line {}", index + 1))?;
        let longest = read.input_length.max(read.output_length);
        ensure!(longest <= MAX_TOKENS, "line {}: more than {MAX_TOKENS} tokens", index + 1);
        ensure!(read.timestamp.is_finite(), "line {}: no time", index + 1);
        lines.push(read);
    }
    lines.sort_by(|a, b| a.timestamp.total_cmp(&b.timestamp));
    let start = lines.first().map_or(0.0, |line| line.timestamp);
    let conversations = lines.iter().enumerate().map(|(index, line)| Conversation {
        at: Some(Duration::from_secs_f64((line.timestamp - start) / 1e3)),
        ..Conversation::single(words(line, index as u64, salt), line.output_length.max(1))
    });
    Ok(conversations.collect())
}

/// A prompt of about `input_length` tokens: a text for each id, then one of its own.
fn words(line: &Line, index: u64, salt: u64) -> String {
    let mut left = line.input_length.max(1);
    let mut text = String::new();
    for id in &line.hash_ids {
        let taken = left.min(BLOCK_TOKENS);
        left -= taken;
        text.push_str(&prompt(id.wrapping_add(salt), taken.saturating_sub(2)));
        text.push('\n');
    }
    if left > 0 {
        text.push_str(&prompt((1 << 48) + index + salt, left.saturating_sub(2).max(1)));
    }
    text
}

/// "2023-11-16 18:17:03.9799600,4808,10": the time of day is enough, as traces are shorter than a day.
fn azure(line: &str) -> anyhow::Result<Line> {
    let mut cells = line.split(',').map(str::trim);
    let mut cell = |name: &str| cells.next().with_context(|| format!("no {name}"));
    let time = cell("TIMESTAMP")?.trim_end_matches('Z');
    let time = time.rsplit([' ', 'T']).next().unwrap_or(time);
    let time = time.split('+').next().unwrap_or(time);
    let mut seconds = 0.0;
    for part in time.split(':') {
        seconds =
            60.0 * seconds + part.parse::<f64>().with_context(|| format!("TIMESTAMP {time}"))?;
    }
    let mut number = |name: &str| -> anyhow::Result<usize> {
        let text = cell(name)?;
        text.parse().with_context(|| format!("{name} {text}"))
    };
    let (input_length, output_length) = (number("ContextTokens")?, number("GeneratedTokens")?);
    Ok(Line { timestamp: 1e3 * seconds, input_length, output_length, hash_ids: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_keep_times_lengths_and_shared_prefixes() {
        let text = "{\"timestamp\":2500,\"input_length\":1100,\"output_length\":7,\"hash_ids\":[1,2,5]}\n\
                    {\"timestamp\":1000,\"input_length\":1030,\"output_length\":3,\"hash_ids\":[1,2,9]}";
        let all = read(text, 0).expect("Mooncake");
        assert_eq!(
            all.iter().map(|one| one.at).collect::<Vec<_>>(),
            [Some(Duration::ZERO), Some(Duration::from_millis(1500))]
        );
        let texts: Vec<&str> = all.iter().map(|one| one.turns[0].text.as_str()).collect();
        let blocks = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(blocks(texts[0])[..2], blocks(texts[1])[..2]);
        assert_ne!(blocks(texts[0])[2], blocks(texts[1])[2]);
        let counted = texts[1].split_whitespace().count();
        assert!((1080..=1110).contains(&counted), "{counted}");
        assert_eq!(all[0].turns[0].max_tokens, 3);
    }

    #[test]
    fn csv_is_read() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.5,48,10\n2023-11-16 18:18:03.5,8,0\n";
        let all = read(text, 0).expect("Azure");
        assert_eq!(all[1].at, Some(Duration::from_secs(60)));
        assert_eq!((all[0].turns[0].max_tokens, all[1].turns[0].max_tokens), (10, 1));
        for broken in ["a,b\n1,2", "{\"timestamp\":1}", "x\n18:x:1,2,3", "x\n1:2:3,99999999999,3"] {
            assert!(read(broken, 0).is_err(), "{broken}");
        }
    }
}
