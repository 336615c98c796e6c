//! A request of Anthropic's API in the fields of `/v1/chat/completions`.

use serde_json::{Map, Value, json};

use crate::error::{ApiError, shortened};
use crate::http::fields::{Fields, NeutralOnly};

/// What a request says in OpenAI's words.
pub(super) struct Translated {
    pub(super) model: Option<String>,
    pub(super) body: Value,
    pub(super) stream: bool,
}

/// Fields that ask for what is not there.
pub(crate) const UNSUPPORTED: &[NeutralOnly] =
    &[NeutralOnly("mcp_servers", &["[]"]), NeutralOnly("container", &[])];

/// Fields that mean something elsewhere and change nothing here.
pub(crate) const WITHOUT_EFFECT: &[&str] =
    &["metadata", "service_tier", "inference_geo", "context_management", "betas"];

pub(super) fn chat_body(body: &str, needs_max_tokens: bool) -> Result<Translated, ApiError> {
    let mut fields = Fields::parse(body)?;
    fields.reject_unsupported(UNSUPPORTED)?;
    for name in WITHOUT_EFFECT {
        fields.take_raw(name);
    }
    let mut chat = Map::new();
    let model = fields.take_string("model")?;
    chat.extend(model.clone().map(|name| ("model".to_owned(), Value::String(name))));
    let stream = fields.take_bool("stream")?.unwrap_or(false);
    let max_tokens = fields.take_u32("max_tokens")?;
    if max_tokens.is_none() && needs_max_tokens {
        return Err(ApiError::invalid("max_tokens", "max_tokens is missing"));
    }
    chat.insert("max_tokens".into(), max_tokens.unwrap_or(1).into());
    chat.insert("stream".into(), stream.into());
    for (theirs, ours) in [
        ("temperature", "temperature"),
        ("top_p", "top_p"),
        ("top_k", "top_k"),
        ("stop_sequences", "stop"),
    ] {
        let value: Option<Value> = fields.take(theirs, "a value of its type")?;
        chat.extend(value.map(|value| (ours.to_owned(), value)));
    }
    take_thinking(&mut fields, &mut chat)?;
    take_tools(&mut fields, &mut chat)?;
    let messages = take_messages(&mut fields)?;
    // An answer that has begun is gone on with.
    if messages.last().is_some_and(|message| message["role"] == "assistant") {
        chat.insert("continue_final_message".into(), true.into());
        chat.insert("add_generation_prompt".into(), false.into());
    }
    chat.insert("messages".into(), messages.into());
    fields.finish();
    Ok(Translated { model, body: Value::Object(chat), stream })
}

/// Whether to think at all; how long is the model's own matter.
fn take_thinking(fields: &mut Fields<'_>, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let thinking: Option<Value> = fields.take("thinking", "an object")?;
    let Some(thinking) = thinking else { return Ok(()) };
    let thinks = match thinking["type"].as_str() {
        Some("enabled") => true,
        Some("disabled") => false,
        Some("adaptive") => return Ok(()),
        _ => {
            let message = "thinking.type must be enabled, disabled or adaptive";
            return Err(ApiError::invalid("thinking", message));
        }
    };
    chat.insert(
        "chat_template_kwargs".into(),
        json!({"enable_thinking": thinks, "thinking": thinks}),
    );
    Ok(())
}

/// Tools that the client runs; those that Anthropic runs are not there.
fn take_tools(fields: &mut Fields<'_>, chat: &mut Map<String, Value>) -> Result<(), ApiError> {
    let tools: Vec<Value> = fields.take("tools", "a list of objects")?.unwrap_or_default();
    let choice: Option<Value> = fields.take("tool_choice", "an object")?;
    if tools.is_empty() {
        return Ok(());
    }
    let mut told = Vec::with_capacity(tools.len());
    for (index, tool) in tools.iter().enumerate() {
        if !matches!(tool["type"].as_str(), None | Some("custom")) {
            let kind = shortened(tool["type"].as_str().unwrap_or(""));
            let message = format!(
                "tools[{index}].type is {kind:?}: only tools that the client runs are supported"
            );
            return Err(ApiError::invalid("tools", message));
        }
        let mut function = json!({"name": tool["name"], "parameters": tool["input_schema"]});
        if tool["description"].is_string() {
            function["description"] = tool["description"].clone();
        }
        told.push(json!({"type": "function", "function": function}));
    }
    chat.insert("tools".into(), told.into());
    let Some(choice) = choice else { return Ok(()) };
    let named = match choice["type"].as_str() {
        Some("auto") => json!("auto"),
        Some("none") => json!("none"),
        Some("any") => json!("required"),
        Some("tool") => json!({"type": "function", "function": {"name": choice["name"]}}),
        _ => {
            let message = "tool_choice.type must be auto, any, tool or none";
            return Err(ApiError::invalid("tool_choice", message));
        }
    };
    chat.insert("tool_choice".into(), named);
    if choice["disable_parallel_tool_use"] == true {
        chat.insert("parallel_tool_calls".into(), false.into());
    }
    Ok(())
}

fn take_messages(fields: &mut Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let mut messages = Vec::new();
    if let Some(system) = fields.take::<Value>("system", "a string or a list of blocks")? {
        let text = text_of(&system).map_err(|message| ApiError::invalid("system", message))?;
        if !text.is_empty() {
            messages.push(json!({"role": "system", "content": text}));
        }
    }
    let given: Option<Vec<Value>> = fields.take("messages", "a list of objects")?;
    let given = given.unwrap_or_default();
    if given.is_empty() {
        return Err(ApiError::invalid("messages", "messages must have at least one message"));
    }
    for (index, message) in given.iter().enumerate() {
        let invalid =
            |what: String| ApiError::invalid("messages", format!("messages[{index}]{what}"));
        let Some(role @ ("user" | "assistant" | "system")) = message["role"].as_str() else {
            return Err(invalid(".role must be user or assistant".into()));
        };
        let turn = Turn::read(&message["content"]);
        let turn = turn.map_err(|what| invalid(format!(".content {what}")))?;
        turn.write(role, &mut messages);
    }
    Ok(messages)
}

/// The blocks of one message, by what they are.
#[derive(Default)]
struct Turn {
    texts: Vec<String>,
    /// What the model called.
    calls: Vec<Value>,
    /// What calls brought, as messages.
    results: Vec<Value>,
}

impl Turn {
    fn read(content: &Value) -> Result<Self, String> {
        let Value::Array(blocks) = content else {
            return Ok(Self { texts: vec![text_of(content)?], ..Self::default() });
        };
        let mut turn = Self::default();
        for block in blocks {
            match block["type"].as_str() {
                Some("tool_use") => turn.calls.push(json!({
                    "id": block["id"],
                    "type": "function",
                    "function": {"name": block["name"], "arguments": block["input"].to_string()},
                })),
                Some("tool_result") => {
                    let text = match &block["content"] {
                        Value::Null => String::new(),
                        content => text_of(content)?,
                    };
                    let id = &block["tool_use_id"];
                    turn.results.push(json!({"role": "tool", "tool_call_id": id, "content": text}));
                }
                _ => turn.texts.extend(blocks_text(std::slice::from_ref(block))?),
            }
        }
        Ok(turn)
    }

    /// Results come before what is said of them.
    fn write(self, role: &str, messages: &mut Vec<Value>) {
        let has_results = !self.results.is_empty();
        messages.extend(self.results);
        if has_results && self.texts.is_empty() {
            return;
        }
        let mut message = json!({"role": role, "content": self.texts.join("\n")});
        if !self.calls.is_empty() {
            message["tool_calls"] = self.calls.into();
        }
        messages.push(message);
    }
}

/// A text, or the texts of blocks. What a model thought in earlier turns is not told again.
fn text_of(content: &Value) -> Result<String, String> {
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(blocks) => Ok(blocks_text(blocks)?.join("\n")),
        _ => Err("must be a string or a list of blocks".into()),
    }
}

fn blocks_text(blocks: &[Value]) -> Result<Vec<String>, String> {
    let mut texts = Vec::new();
    for block in blocks {
        match block["type"].as_str().unwrap_or("") {
            "text" => {
                let text = block["text"].as_str().ok_or("has a text block without text")?;
                texts.push(text.to_owned());
            }
            "thinking" | "redacted_thinking" => {}
            other => {
                let other = shortened(other);
                return Err(format!("has a block of type {other:?}: only text is supported"));
            }
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_in_openais_words() {
        let body = json!({
            "model": "m", "max_tokens": 9, "stop_sequences": ["x"], "top_k": 3, "metadata": {"user_id": "u"},
            "thinking": {"type": "disabled"},
            "system": [{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "kind."}],
            "messages": [{"role": "user", "content": "Hi"},
                         {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "So"}]}],
        });
        let translated = chat_body(&body.to_string(), true).unwrap();
        let expected = json!({
            "model": "m", "max_tokens": 9, "stream": false, "top_k": 3, "stop": ["x"],
            "chat_template_kwargs": {"enable_thinking": false, "thinking": false},
            "continue_final_message": true, "add_generation_prompt": false,
            "messages": [{"role": "system", "content": "Be\nkind."}, {"role": "user", "content": "Hi"},
                         {"role": "assistant", "content": "So"}],
        });
        assert_eq!(translated.body, expected);
    }
}
