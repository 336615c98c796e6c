//! The conversation fields that chat and `/tokenize` share.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::app::unix_time;
use crate::error::{ApiError, shortened};
use crate::http::fields::{ALL_MARKS, Fields, check_marks};
use crate::limits::ServerLimits;
use crate::text::ChatInput;

const REASONING_EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// The conversation in `fields` and how its template is to be rendered.
pub(crate) fn take_chat(
    fields: &mut Fields<'_>,
    limits: &ServerLimits,
) -> Result<ChatInput, ApiError> {
    let messages = take_messages(fields, limits)?;
    let mut kwargs: Map<String, Value> =
        fields.take("chat_template_kwargs", "an object")?.unwrap_or_default();
    take_thinking(fields, &mut kwargs)?;
    // The model's BOS token is in front of every chat once, whether or not it is asked for.
    fields.take_bool("add_special_tokens")?;
    Ok(ChatInput {
        messages,
        add_generation_prompt: fields.take_bool("add_generation_prompt")?.unwrap_or(true),
        continue_final_message: fields.take_bool("continue_final_message")?.unwrap_or(false),
        kwargs,
        unix_seconds: unix_time() as i64,
        ..ChatInput::default()
    })
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Thinking {
    Switch(bool),
    Effort(String),
}

/// How much to think, in the ways that clients say it. What `chat_template_kwargs` names stays as it is.
pub(crate) fn take_thinking(
    fields: &mut Fields<'_>,
    kwargs: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let effort = fields.take_string("reasoning_effort")?;
    let think = fields.take("think", "true, false or an effort")?;
    if let Some(thinks) = fields.take_bool("enable_thinking")? {
        switch_thinking(kwargs, thinks);
    }
    let (named, name) = match (effort, think) {
        (Some(effort), _) => (Some(Thinking::Effort(effort)), "reasoning_effort"),
        (None, think) => (think, "think"),
    };
    match named {
        None => {}
        Some(Thinking::Switch(thinks)) => switch_thinking(kwargs, thinks),
        Some(Thinking::Effort(effort)) => {
            if !REASONING_EFFORTS.contains(&effort.as_str()) {
                let message = format!("{name} must be one of {}", REASONING_EFFORTS.join(", "));
                return Err(ApiError::invalid(name, message));
            }
            switch_thinking(kwargs, effort != "none");
            kwargs.entry("reasoning_effort").or_insert(Value::String(effort));
        }
    }
    Ok(())
}

/// Templates have one of two names for it.
fn switch_thinking(kwargs: &mut Map<String, Value>, thinks: bool) {
    if ["enable_thinking", "thinking"].iter().all(|name| !kwargs.contains_key(*name)) {
        kwargs.insert("enable_thinking".to_owned(), Value::Bool(thinks));
        kwargs.insert("thinking".to_owned(), Value::Bool(thinks));
    }
}

#[derive(Deserialize)]
struct RawMessage {
    role: String,
    #[serde(default)]
    content: Value,
    name: Option<String>,
    tool_call_id: Option<String>,
    tool_calls: Option<Vec<Value>>,
    reasoning: Option<String>,
    /// The older name; clients send back both.
    reasoning_content: Option<String>,
}

fn take_messages(fields: &mut Fields<'_>, limits: &ServerLimits) -> Result<Vec<Value>, ApiError> {
    let raw = fields.take_raw("messages");
    raw.map_or(Ok(()), |raw| check_marks("messages", raw, ALL_MARKS))?;
    let raw = raw.map_or("[]", RawValue::get);
    let not_a_list = |_| invalid("messages must be a list of objects");
    // Counted before they are parsed: a message takes many times its bytes.
    let given: Vec<&RawValue> = serde_json::from_str(raw).map_err(not_a_list)?;
    check_count(given.len(), limits)?;
    let parsed = given.into_iter().map(|message| serde_json::from_str(message.get()));
    checked(parsed.collect::<Result<_, _>>().map_err(not_a_list)?, limits)
}

/// The messages as templates take them.
pub(crate) fn checked(given: Vec<Value>, limits: &ServerLimits) -> Result<Vec<Value>, ApiError> {
    check_count(given.len(), limits)?;
    given.into_iter().enumerate().map(|(index, message)| convert(index, message)).collect()
}

/// Whether one request may have so many messages.
pub(crate) fn check_count(count: usize, limits: &ServerLimits) -> Result<(), ApiError> {
    if count == 0 {
        return Err(invalid("messages must have at least one message"));
    }
    let limit = limits.max_messages;
    if count > limit {
        return Err(invalid(format!("messages has over {limit} entries (--max-messages)")));
    }
    Ok(())
}

fn convert(index: usize, message: Value) -> Result<Value, ApiError> {
    let raw: RawMessage = serde_json::from_value(message)
        .map_err(|error| invalid(format!("messages[{index}] is not a message: {error}")))?;
    let role = match raw.role.as_str() {
        "system" | "user" | "assistant" | "tool" => raw.role,
        // Chat templates know this role by its older name.
        "developer" => "system".to_owned(),
        other => {
            let other = shortened(other);
            return Err(invalid(format!(
                "messages[{index}].role must be system, developer, user, assistant or tool, not {other:?}"
            )));
        }
    };
    let may_be_empty = role == "assistant";
    let content = match content_text(index, raw.content)? {
        None if !may_be_empty => {
            return Err(invalid(format!("messages[{index}].content is missing")));
        }
        content => content.unwrap_or_default(),
    };
    let mut converted = json!({"role": role, "content": content});
    if let Some(name) = raw.name {
        converted["name"] = name.into();
    }
    if let Some(id) = raw.tool_call_id {
        converted["tool_call_id"] = id.into();
    }
    if let Some(reasoning) = raw.reasoning.or(raw.reasoning_content).filter(|text| !text.is_empty())
    {
        converted["reasoning_content"] = reasoning.into();
    }
    if let Some(calls) = raw.tool_calls.filter(|calls| !calls.is_empty()) {
        calls.iter().try_for_each(|call| check_call(index, call))?;
        converted["tool_calls"] = calls.into();
    }
    Ok(converted)
}

/// A call of an earlier turn: a name, and arguments as JSON text or as an object.
fn check_call(index: usize, call: &Value) -> Result<(), ApiError> {
    let function = &call["function"];
    let arguments = &function["arguments"];
    let is_object = |text: &str| {
        text.trim().is_empty() || matches!(serde_json::from_str(text), Ok(Value::Object(_)))
    };
    let is_right = function["name"].as_str().is_some_and(|name| !name.is_empty())
        && match arguments {
            Value::String(text) => is_object(text),
            Value::Object(_) | Value::Null => true,
            _ => false,
        };
    if is_right {
        return Ok(());
    }
    Err(invalid(format!(
        "messages[{index}].tool_calls needs entries with a function of a name and of arguments, a JSON object as text"
    )))
}

/// Text, or text parts joined by line feeds.
fn content_text(index: usize, content: Value) -> Result<Option<String>, ApiError> {
    let parts = match content {
        Value::Null => return Ok(None),
        Value::String(text) => return Ok(Some(text)),
        Value::Array(parts) => parts,
        _ => {
            let message = format!("messages[{index}].content must be a string or a list of parts");
            return Err(invalid(message));
        }
    };
    let text_of = |part: &Value| {
        let kind = part["type"].as_str().unwrap_or("");
        let text = match kind {
            "text" => part["text"].as_str(),
            "refusal" => part["refusal"].as_str(),
            "" => return Err(invalid(format!("a part of messages[{index}].content has no type"))),
            other => {
                let other = shortened(other);
                return Err(invalid(format!(
                    "messages[{index}].content has a part of type {other:?}: only text is supported"
                )));
            }
        };
        text.map(str::to_owned)
            .ok_or_else(|| invalid(format!("a text part of messages[{index}].content has no text")))
    };
    let texts: Vec<String> = parts.iter().map(text_of).collect::<Result<_, _>>()?;
    Ok(Some(texts.join("\n")))
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::invalid("messages", message)
}
