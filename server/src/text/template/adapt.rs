//! What a template can read, found by trying, and messages brought into that form.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{ChatInput, ChatTemplate};

/// Forms of a message that the template prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// `content` as a string.
    string_content: bool,
    /// `content` as a list of parts.
    part_content: bool,
    /// The arguments of a tool call as an object; else as JSON text.
    object_arguments: bool,
    /// Reasoning under the name `thinking`, and not beside the content of a call.
    named_thinking: bool,
    /// Reasoning as a part of the content.
    part_thinking: bool,
    /// Ids of calls have nine letters or digits.
    nine_letter_ids: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            string_content: true,
            part_content: false,
            object_arguments: true,
            named_thinking: false,
            part_thinking: false,
            nine_letter_ids: false,
        }
    }
}

const NEEDLE: &str = "needle4711";

impl Capabilities {
    pub(super) fn probe(template: &ChatTemplate) -> Self {
        let render = |messages: Value| {
            let messages = messages.as_array().cloned().unwrap_or_default();
            template.render_text(&ChatInput {
                messages,
                add_generation_prompt: true,
                ..ChatInput::default()
            })
        };
        let prints = |messages: Value| render(messages).ok().filter(|text| text.contains(NEEDLE));
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        let string_content = prints(user(json!(NEEDLE))).is_some();
        // A template may also dump the list as it is.
        let part_content = prints(user(json!([{"type": "text", "text": NEEDLE}])))
            .is_some_and(|text| !text.contains("\"type\"") && !text.contains("'type'"));
        let text = if string_content || !part_content {
            json!("hello")
        } else {
            json!([{"type": "text", "text": "hello"}])
        };
        let call = |content: &Value, arguments: &Value| {
            let function = json!({"name": "look", "arguments": arguments});
            let calls = json!([{"id": "call00001", "type": "function", "function": function}]);
            let messages = json!([
                {"role": "user", "content": text},
                {"role": "assistant", "content": content, "tool_calls": calls},
                {"role": "tool", "tool_call_id": "call00001", "name": "look", "content": text},
            ]);
            prints(messages).is_some()
        };
        let object = json!({"key": NEEDLE});
        let string = json!(object.to_string());
        let contents = [Value::Null, text.clone()];
        let mut outcomes = contents
            .iter()
            .flat_map(|content| [(true, call(content, &object)), (false, call(content, &string))]);
        let object_arguments = outcomes.find(|&(_, prints)| prints).is_none_or(|(is, _)| is);
        let source = template.source();
        Self {
            string_content: string_content || !part_content,
            part_content,
            object_arguments,
            named_thinking: source.contains("message.thinking"),
            part_thinking: source.contains("block['thinking']"),
            nine_letter_ids: source.contains("length != 9") || source.contains("|length!=9"),
        }
    }

    /// Brings messages into the form that the template reads.
    pub(super) fn adapt(self, messages: &mut [Value]) {
        for message in messages {
            if let Some(content) = message.get_mut("content") {
                self.adapt_content(content);
            }
            self.adapt_reasoning(message);
            if let Some(id) = message.get_mut("tool_call_id").filter(|_| self.nine_letter_ids) {
                shorten_id(id);
            }
            let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
            for call in calls.into_iter().flatten() {
                if let Some(id) = call.get_mut("id").filter(|_| self.nine_letter_ids) {
                    shorten_id(id);
                }
                let arguments = call.get_mut("function").and_then(|f| f.get_mut("arguments"));
                if let Some(arguments) = arguments {
                    self.adapt_arguments(arguments);
                }
            }
        }
    }

    fn adapt_reasoning(self, message: &mut Value) {
        let Some(reasoning) = message.get("reasoning_content").cloned() else { return };
        let has_text = message["content"].as_str().is_some_and(|text| !text.is_empty());
        let has_calls = message.get("tool_calls").is_some();
        if self.named_thinking && !(has_text && has_calls) {
            message["thinking"] = reasoning;
        } else if self.part_thinking {
            let mut parts = vec![json!({"type": "thinking", "thinking": reasoning})];
            parts.extend(
                parts_of(message["content"].take()).into_iter().filter(|part| part["text"] != ""),
            );
            message["content"] = Value::Array(parts);
        }
    }

    fn adapt_content(self, content: &mut Value) {
        match content {
            Value::Array(parts) if !self.part_content => {
                let texts: Vec<&str> = parts.iter().filter_map(part_text).collect();
                if texts.len() == parts.len() {
                    *content = Value::String(texts.join("\n"));
                }
            }
            Value::String(text) if !self.string_content => {
                *content = json!([{"type": "text", "text": text}]);
            }
            _ => {}
        }
    }

    fn adapt_arguments(self, arguments: &mut Value) {
        match arguments {
            Value::String(text) if self.object_arguments => {
                if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
                    *arguments = object;
                }
            }
            Value::Object(_) if !self.object_arguments => {
                *arguments = Value::String(arguments.to_string());
            }
            _ => {}
        }
    }
}

/// Another id for the same call, wherever it is named.
fn shorten_id(id: &mut Value) {
    let Some(text) = id.as_str() else { return };
    if text.len() == 9 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return;
    }
    let digest = Sha256::digest(text.as_bytes());
    let digits = digest.iter().map(|byte| char::from(b'a' + byte % 26));
    *id = Value::String(digits.take(9).collect());
}

/// Joins the contents of messages that follow each other with the same role and nothing else, with an empty line between.
pub(super) fn merge_consecutive_roles(messages: &mut Vec<Value>) {
    let is_plain = |message: &Value| {
        let keys = message.as_object().map(|message| message.keys());
        keys.is_some_and(|mut keys| keys.all(|key| key == "role" || key == "content"))
    };
    messages.dedup_by(|message, before| {
        let is_same = message["role"] == before["role"] && message["role"] != "tool";
        if !is_same || !is_plain(message) || !is_plain(before) {
            return false;
        }
        match (&mut before["content"], message["content"].take()) {
            (Value::String(before), Value::String(content)) => {
                before.push_str("\n\n");
                before.push_str(&content);
            }
            (before, content) => {
                let mut parts = parts_of(before.take());
                parts.extend(parts_of(content));
                *before = Value::Array(parts);
            }
        }
        true
    });
}

fn parts_of(content: Value) -> Vec<Value> {
    match content {
        Value::Array(parts) => parts,
        Value::Null => Vec::new(),
        text => vec![json!({"type": "text", "text": text})],
    }
}

/// Puts `mark` and a space at the end of the last message's text; `None` if it has none.
pub(super) fn mark_final_message(messages: &mut [Value], mark: char) -> Option<()> {
    let text = match messages.last_mut()?.get_mut("content")? {
        Value::Array(parts) => {
            let mut texts = parts.iter_mut().rev().filter_map(|part| part.get_mut("text"));
            texts.next()?
        }
        content => content,
    };
    let Value::String(text) = text else { return None };
    text.push(mark);
    text.push(' ');
    Some(())
}

fn part_text(part: &Value) -> Option<&str> {
    match part {
        Value::String(text) => Some(text),
        part => part.get("text").and_then(Value::as_str),
    }
}
