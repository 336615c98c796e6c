//! Conversations of a file: ShareGPT's JSON, or JSONL with prompts or messages.

use anyhow::{Context, bail};
use serde::Deserialize;

use super::{Conversation, Turn};

/// Characters that a token stands for, about: lengths of answers in files are known as text only.
const CHARACTERS_A_TOKEN: usize = 4;
/// Longest answer that a text of a file asks for, tokens.
const MAX_OUTPUT: usize = 2048;

/// One conversation in any of the forms; what is absent tells the form.
#[derive(Deserialize)]
struct Entry {
    conversations: Option<Vec<Said>>,
    messages: Option<Vec<Said>>,
    prompt: Option<String>,
    #[serde(alias = "completion", alias = "response")]
    output: Option<String>,
    #[serde(alias = "max_tokens", alias = "output_len", alias = "output_length")]
    output_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(alias = "role")]
    from: String,
    #[serde(alias = "content")]
    value: String,
}

/// `output`: tokens of an answer whose length the file does not tell.
pub(super) fn read(text: &str, output: usize) -> anyhow::Result<Vec<Conversation>> {
    let entries: Vec<Entry> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).context("not ShareGPT's JSON")?
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let entries = lines.map(|(index, line)| {
            serde_json::from_str(line).with_context(|| format!("line {}", index + 1))
        });
        entries.collect::<anyhow::Result<_>>()?
    };
    let read: Vec<Conversation> =
        entries.into_iter().filter_map(|entry| conversation(entry, output)).collect();
    if read.is_empty() {
        bail!("no entry has a prompt, messages, or conversations that a human begins");
    }
    Ok(read)
}

fn conversation(entry: Entry, output: usize) -> Option<Conversation> {
    if let Some(prompt) = entry.prompt {
        let told = entry.output.map(|text| tokens(&text));
        return Some(Conversation::single(prompt, entry.output_tokens.or(told).unwrap_or(output)));
    }
    let mut made = Conversation::default();
    for said in entry.conversations.or(entry.messages)? {
        match said.from.as_str() {
            "system" => made.system = Some(said.value),
            "human" | "user" => {
                let max_tokens = entry.output_tokens.unwrap_or(output);
                made.turns.push(Turn { text: said.value, max_tokens });
            }
            // The answer of the file is asked for only by its length.
            _ => made.turns.last_mut()?.max_tokens = tokens(&said.value),
        }
    }
    (!made.turns.is_empty()).then_some(made)
}

fn tokens(text: &str) -> usize {
    (text.chars().count() / CHARACTERS_A_TOKEN).clamp(1, MAX_OUTPUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let json = r#"[{"id":"x","conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"12345678"},
            {"from":"human","value":"more"}]},{"conversations":[{"from":"gpt","value":"no human"}]}]"#;
        let read_json = read(json, 9).expect("ShareGPT");
        let turn = |text: &str, max_tokens| Turn { text: text.to_owned(), max_tokens };
        assert_eq!(read_json.len(), 1);
        assert_eq!(read_json[0].turns, [turn("hi", 2), turn("more", 9)]);
        let lines = "{\"prompt\":\"a\",\"max_tokens\":5}\n\n{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"b\"}]}";
        let read_lines = read(lines, 9).expect("JSONL");
        assert_eq!(
            (read_lines[0].turns[0].clone(), read_lines[1].system.as_deref()),
            (turn("a", 5), Some("s"))
        );
    }

    #[test]
    fn broken_files_name_the_line() {
        let error = format!("{:#}", read("{\"prompt\":\"a\"}\n{", 9).expect_err("half"));
        assert!(error.starts_with("line 2"), "{error}");
        assert!(read("[]", 9).is_err() && read("{\"a\":1}", 9).is_err() && read("[3]", 9).is_err());
    }
}
