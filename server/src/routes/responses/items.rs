//! Input items as messages of a chat.

use serde_json::{Value, json};

use crate::error::{ApiError, shortened};

/// The conversation of `items`, of which the first `num_earlier` were given before this request.
pub(super) fn messages_of(
    instructions: Option<&str>,
    items: &[Value],
    num_earlier: usize,
) -> Result<Vec<Value>, ApiError> {
    let mut conversation = Conversation::default();
    if let Some(text) = instructions.filter(|text| !text.is_empty()) {
        conversation.messages.push(json!({"role": "system", "content": text}));
    }
    for (index, item) in items.iter().enumerate() {
        conversation.add(item).map_err(|what| {
            let index = index.saturating_sub(num_earlier);
            ApiError::invalid("input", format!("input[{index}]{what}"))
        })?;
    }
    conversation.end_turn();
    let mut messages = conversation.messages;
    join_instructions(&mut messages);
    Ok(messages)
}

/// Messages so far, and what the assistant says and calls in one turn, which is one message.
#[derive(Default)]
struct Conversation {
    messages: Vec<Value>,
    reasoning: String,
    content: Option<String>,
    calls: Vec<Value>,
}

impl Conversation {
    /// Fails with what is wrong, to be read behind the item's place.
    fn add(&mut self, item: &Value) -> Result<(), String> {
        let kind = match &item["type"] {
            Value::Null if item.is_object() => "message",
            Value::String(kind) => kind,
            _ => return Err(" must be an object with a type".into()),
        };
        match kind {
            "message" => self.add_message(item),
            "reasoning" => {
                let texts = ["content", "summary"].map(|name| text_of(&item[name]));
                // A summary stands for thoughts that are not told.
                let [content, summary] = texts.map(Result::unwrap_or_default);
                self.end_turn_after_content();
                self.reasoning.push_str(if content.is_empty() { &summary } else { &content });
                Ok(())
            }
            "function_call" => {
                self.calls.push(json!({
                    "id": string(item, "call_id")?,
                    "type": "function",
                    "function": {"name": string(item, "name")?, "arguments": string(item, "arguments")?},
                }));
                Ok(())
            }
            "function_call_output" => {
                self.end_turn();
                let text = text_of(&item["output"]).map_err(|what| format!(".output {what}"))?;
                let id = string(item, "call_id")?;
                self.messages.push(json!({"role": "tool", "tool_call_id": id, "content": text}));
                Ok(())
            }
            other => Err(format!(
                ".type is {:?}: only message, reasoning, function_call and function_call_output are supported",
                shortened(other)
            )),
        }
    }

    fn add_message(&mut self, item: &Value) -> Result<(), String> {
        let text = text_of(&item["content"]).map_err(|what| format!(".content {what}"))?;
        match item["role"].as_str() {
            Some("assistant") => {
                self.end_turn_after_content();
                self.content = Some(text);
            }
            Some(role @ ("user" | "system" | "developer")) => {
                self.end_turn();
                let role = if role == "user" { role } else { "system" };
                self.messages.push(json!({"role": role, "content": text}));
            }
            _ => return Err(".role must be user, assistant, system or developer".into()),
        }
        Ok(())
    }

    /// What is said or thought after something was said or called begins another message.
    fn end_turn_after_content(&mut self) {
        if self.content.is_some() || !self.calls.is_empty() {
            self.end_turn();
        }
    }

    fn end_turn(&mut self) {
        let (content, calls) = (self.content.take(), std::mem::take(&mut self.calls));
        let reasoning = std::mem::take(&mut self.reasoning);
        if content.is_none() && calls.is_empty() {
            return;
        }
        let mut message = json!({"role": "assistant", "content": content.unwrap_or_default()});
        if !reasoning.is_empty() {
            message["reasoning"] = reasoning.into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        self.messages.push(message);
    }
}

/// Many templates take one system message, the first.
fn join_instructions(messages: &mut Vec<Value>) {
    let count = messages.iter().take_while(|message| message["role"] == "system").count();
    if count > 1 {
        let texts = messages.drain(..count).map(|message| message["content"].clone());
        let texts: Vec<String> =
            texts.map(|text| text.as_str().unwrap_or_default().to_owned()).collect();
        messages.insert(0, json!({"role": "system", "content": texts.join("\n\n")}));
    }
}

/// Leaves out old messages that come to about `excess` of `num_tokens`, and results whose calls are gone; never instructions nor
/// the last message. How many went.
pub(super) fn drop_oldest(messages: &mut Vec<Value>, excess: usize, num_tokens: usize) -> u32 {
    let bytes_of = |message: &Value| message.to_string().len();
    let num_bytes: usize = messages.iter().map(bytes_of).sum();
    let enough = num_bytes.saturating_mul(excess) / num_tokens.max(1);
    let (mut gone, mut num_gone) = (0, 0);
    loop {
        let end = messages.len().saturating_sub(1);
        let oldest = messages[..end].iter().position(|message| message["role"] != "system");
        let Some(oldest) = oldest else { return num_gone };
        let is_orphan = messages[oldest]["role"] == "tool";
        if num_gone > 0 && gone >= enough && !is_orphan {
            return num_gone;
        }
        gone += bytes_of(&messages.remove(oldest));
        num_gone += 1;
    }
}

fn string(item: &Value, name: &str) -> Result<String, String> {
    let text = item[name].as_str().filter(|text| !text.is_empty() || name == "arguments");
    text.map(str::to_owned).ok_or_else(|| format!(".{name} must be a string"))
}

/// A text, or the texts of parts.
fn text_of(content: &Value) -> Result<String, String> {
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        _ => return Err("must be a string or a list of parts".into()),
    };
    let text_of = |part: &Value| {
        let text = match part["type"].as_str().unwrap_or("") {
            "input_text" | "output_text" | "text" | "reasoning_text" | "summary_text" => {
                part["text"].as_str()
            }
            "refusal" => part["refusal"].as_str(),
            other => {
                let other = shortened(other);
                return Err(format!("has a part of type {other:?}: only text is supported"));
            }
        };
        text.map(str::to_owned).ok_or_else(|| "has a text part without text".to_owned())
    };
    Ok(parts.iter().map(text_of).collect::<Result<Vec<_>, _>>()?.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_one_turn_are_one_message() {
        let call = |id: &str| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"});
        let items = [
            json!({"role": "developer", "content": "Be brief."}),
            json!({"role": "user", "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_text", "text": "you"}]}),
            json!({"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}),
            json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So"}]}),
            call("a"),
            call("b"),
            json!({"type": "function_call_output", "call_id": "a", "output": "1"}),
            json!({"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]}),
            json!({"type": "message", "role": "assistant", "content": "Two"}),
            json!({"type": "message", "role": "assistant", "content": "Three"}),
        ];
        let told = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
        let expected = [
            json!({"role": "system", "content": "Act.\n\nBe brief."}),
            json!({"role": "user", "content": "Hi\nyou"}),
            json!({"role": "assistant", "content": "So", "reasoning": "hm", "tool_calls": [told("a"), told("b")]}),
            json!({"role": "tool", "tool_call_id": "a", "content": "1"}),
            json!({"role": "tool", "tool_call_id": "b", "content": "2"}),
            json!({"role": "assistant", "content": "Two"}),
            json!({"role": "assistant", "content": "Three"}),
        ];
        assert_eq!(messages_of(Some("Act."), &items, 0).unwrap(), expected);
    }

    #[test]
    fn the_oldest_go_with_what_answers_them() {
        let message = |role: &str, text: &str| json!({"role": role, "content": text});
        let mut messages = vec![
            message("system", "Be brief."),
            message("user", "one"),
            message("assistant", "a call"),
            message("tool", "its result"),
            message("user", "two"),
        ];
        assert_eq!(drop_oldest(&mut messages, 1, 100), 1);
        assert_eq!(drop_oldest(&mut messages, 1, 100), 2);
        assert_eq!(messages, [message("system", "Be brief."), message("user", "two")]);
        assert_eq!(drop_oldest(&mut messages, 1, 100), 0);
    }
}
