//! A request of OpenAI's Responses API in the fields of `/v1/chat/completions`.

use serde_json::{Map, Value, json};

use crate::error::{ApiError, shortened};
use crate::http::fields::{Fields, NeutralOnly};
use crate::routes::sampling;

/// What a request says.
pub(super) struct Translated {
    pub(super) model: Option<String>,
    /// In the fields of a chat, but for the messages.
    pub(super) chat: Map<String, Value>,
    pub(super) instructions: Option<String>,
    /// Each with an id.
    pub(super) input: Vec<Value>,
    /// The response that this one follows.
    pub(super) previous: Option<String>,
    /// What the response object tells back.
    pub(super) echoed: Map<String, Value>,
    pub(super) stream: bool,
    pub(super) store: bool,
    /// The oldest messages may be left out.
    pub(super) truncates: bool,
}

/// Fields that ask for what is not there, and the values that ask for nothing.
pub(crate) const UNSUPPORTED: &[NeutralOnly] = &[
    NeutralOnly("background", &["false"]),
    NeutralOnly("conversation", &[]),
    NeutralOnly("prompt", &[]),
    NeutralOnly("context_management", &["[]"]),
    NeutralOnly("top_logprobs", &["0"]),
    NeutralOnly("service_tier", &[r#""auto""#, r#""default""#]),
    NeutralOnly("include_reasoning", &["true"]),
    NeutralOnly("enable_response_messages", &["false"]),
    NeutralOnly("previous_input_messages", &["[]"]),
    NeutralOnly("request_id", &[]),
];

/// Fields that mean something elsewhere and change nothing here.
pub(crate) const WITHOUT_EFFECT: &[&str] = &[
    "stream_options",
    "prompt_cache_options",
    "prompt_cache_retention",
    "client_metadata",
    "session_id",
];

/// Fields that chats have too.
const SHARED: &[&str] = &[
    "allowed_token_ids",
    "bad_words",
    "cache_salt",
    "chat_template_kwargs",
    "frequency_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "logit_bias",
    "min_p",
    "min_tokens",
    "parallel_tool_calls",
    "presence_penalty",
    "priority",
    "repetition_penalty",
    "seed",
    "skip_special_tokens",
    "stop",
    "stop_token_ids",
    "structured_outputs",
    "temperature",
    "top_k",
    "top_p",
    "user",
];

pub(super) fn read(body: &str) -> Result<Translated, ApiError> {
    let mut fields = Fields::parse(body)?;
    fields.reject_unsupported(UNSUPPORTED)?;
    fields.reject_unsupported(sampling::UNSUPPORTED)?;
    for name in WITHOUT_EFFECT {
        fields.take_raw(name);
    }
    let mut chat = Map::new();
    let model = fields.take_string("model")?;
    chat.extend(model.clone().map(|name| ("model".to_owned(), Value::String(name))));
    let mut echoed = Map::new();
    for &name in SHARED {
        let value: Option<Value> = fields.take(name, "a value of its type")?;
        chat.extend(value.map(|value| (name.to_owned(), value)));
    }
    let max_output_tokens = fields.take_u32("max_output_tokens")?;
    chat.extend(max_output_tokens.map(|max| ("max_completion_tokens".to_owned(), max.into())));
    echoed.insert("max_output_tokens".into(), max_output_tokens.into());
    echoed.insert("max_tool_calls".into(), fields.take_u32("max_tool_calls")?.into());
    take_tools(&mut fields, &mut chat, &mut echoed)?;
    take_text(&mut fields, &mut chat, &mut echoed)?;
    take_reasoning(&mut fields, &mut chat, &mut echoed)?;
    check_include(&mut fields)?;
    let instructions = fields.take_string("instructions")?;
    echoed.insert("instructions".into(), instructions.clone().into());
    let previous = fields.take_string("previous_response_id")?;
    echoed.insert("previous_response_id".into(), previous.clone().into());
    for name in ["safety_identifier", "prompt_cache_key"] {
        echoed.insert(name.into(), fields.take_string(name)?.into());
    }
    let user = chat.get("user").cloned();
    echoed.insert("user".into(), user.into());
    echoed.insert("metadata".into(), take_metadata(&mut fields)?);
    let truncates = take_truncation(&mut fields, &mut echoed)?;
    let input = take_input(&mut fields)?;
    let stream = fields.take_bool("stream")?.unwrap_or(false);
    let store = fields.take_bool("store")?.unwrap_or(false);
    fields.finish();
    Ok(Translated { model, chat, instructions, input, previous, echoed, stream, store, truncates })
}

/// Renames what a chat blames to what the client wrote.
pub(super) fn blame(mut error: ApiError) -> ApiError {
    error.param = error.param.map(|param| match param.as_ref() {
        "messages" | "prompt" => "input".into(),
        "max_tokens" | "max_completion_tokens" => "max_output_tokens".into(),
        "response_format" | "verbosity" => "text".into(),
        "reasoning_effort" => "reasoning".into(),
        _ => param,
    });
    error
}

/// A text, or items; those without an id get one.
fn take_input(fields: &mut Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let mut items = match fields.take("input", "a string or a list of items")? {
        None => return Err(ApiError::invalid("input", "input is missing")),
        Some(Value::String(text)) => {
            let part = json!({"type": "input_text", "text": text});
            vec![json!({"type": "message", "role": "user", "content": [part]})]
        }
        Some(Value::Array(items)) if !items.is_empty() => items,
        Some(Value::Array(_)) => return Err(ApiError::invalid("input", "input has no items")),
        Some(_) => {
            return Err(ApiError::invalid("input", "input must be a string or a list of items"));
        }
    };
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        let kind = item.entry("type").or_insert_with(|| "message".into());
        let prefix = match kind.as_str() {
            Some("message") => "msg",
            Some("function_call") => "fc",
            Some("function_call_output") => "fco",
            Some("reasoning") => "rs",
            _ => "item",
        };
        if !item.get("id").is_some_and(Value::is_string) {
            let id = format!("{prefix}_{}", uuid::Uuid::new_v4().simple());
            item.insert("id".into(), id.into());
        }
    }
    Ok(items)
}

/// Tools that the client runs; those that OpenAI runs are not there.
fn take_tools(
    fields: &mut Fields<'_>,
    chat: &mut Map<String, Value>,
    echoed: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let tools: Vec<Value> = fields.take("tools", "a list of objects")?.unwrap_or_default();
    let choice: Value =
        fields.take("tool_choice", "a string or an object")?.unwrap_or("auto".into());
    let is_parallel = chat.get("parallel_tool_calls").cloned().unwrap_or(true.into());
    echoed.insert("parallel_tool_calls".into(), is_parallel);
    let mut told = Vec::with_capacity(tools.len());
    for (index, tool) in tools.iter().enumerate() {
        if tool["type"] != "function" {
            let kind = shortened(tool["type"].as_str().unwrap_or("")).into_owned();
            let message = format!(
                "tools[{index}].type is {kind:?}: only functions, which the client runs, are supported"
            );
            return Err(ApiError::invalid("tools", message));
        }
        let mut function = tool.clone();
        function.as_object_mut().map(|function| function.remove("type"));
        told.push(json!({"type": "function", "function": function}));
    }
    let named = |name: &Value| json!({"type": "function", "function": {"name": name}});
    let in_chat = match (&choice, choice["type"].as_str()) {
        (Value::String(_), _) => choice.clone(),
        (_, Some("function")) => named(&choice["name"]),
        (_, Some("allowed_tools")) => {
            let tools = choice["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
            let tools: Vec<Value> = tools.iter().map(|tool| named(&tool["name"])).collect();
            let allowed = json!({"mode": choice["mode"], "tools": tools});
            json!({"type": "allowed_tools", "allowed_tools": allowed})
        }
        _ => {
            let message = "tool_choice must be none, auto, required, or an object of type function or \
                           allowed_tools";
            return Err(ApiError::invalid("tool_choice", message));
        }
    };
    chat.insert("tool_choice".into(), in_chat);
    if !told.is_empty() {
        chat.insert("tools".into(), told.into());
    }
    echoed.insert("tools".into(), tools.into());
    echoed.insert("tool_choice".into(), choice);
    Ok(())
}

/// How the text is to look.
fn take_text(
    fields: &mut Fields<'_>,
    chat: &mut Map<String, Value>,
    echoed: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let text: Map<String, Value> = fields.take("text", "an object")?.unwrap_or_default();
    let format = text.get("format").filter(|format| !format.is_null()).cloned();
    let format = format.unwrap_or_else(|| json!({"type": "text"}));
    let in_chat = match format["type"].as_str() {
        Some("text" | "json_object") => format.clone(),
        Some("json_schema") => json!({"type": "json_schema", "json_schema": format}),
        _ => {
            let message = "text.format.type must be text, json_object or json_schema";
            return Err(ApiError::invalid("text", message));
        }
    };
    chat.insert("response_format".into(), in_chat);
    let verbosity = text.get("verbosity").filter(|verbosity| !verbosity.is_null()).cloned();
    let verbosity = verbosity.unwrap_or("medium".into());
    chat.insert("verbosity".into(), verbosity.clone());
    echoed.insert("text".into(), json!({"format": format, "verbosity": verbosity}));
    Ok(())
}

/// How much to think. Thoughts are told as they are, so no summary is made.
fn take_reasoning(
    fields: &mut Fields<'_>,
    chat: &mut Map<String, Value>,
    echoed: &mut Map<String, Value>,
) -> Result<(), ApiError> {
    let reasoning: Map<String, Value> = fields.take("reasoning", "an object")?.unwrap_or_default();
    let effort = reasoning.get("effort").filter(|effort| !effort.is_null()).cloned();
    chat.extend(effort.clone().map(|effort| ("reasoning_effort".to_owned(), effort)));
    echoed.insert("reasoning".into(), json!({"effort": effort, "summary": null}));
    Ok(())
}

/// What else is to be told: of what is here, nothing.
fn check_include(fields: &mut Fields<'_>) -> Result<(), ApiError> {
    let include: Vec<String> = fields.take("include", "a list of strings")?.unwrap_or_default();
    match include.iter().find(|name| name.contains("logprobs")) {
        Some(name) => {
            let message = format!("include: {:?} is not supported", shortened(name));
            Err(ApiError::invalid("include", message))
        }
        None => Ok(()),
    }
}

/// Texts of the client's own.
fn take_metadata(fields: &mut Fields<'_>) -> Result<Value, ApiError> {
    const MAX_ENTRIES: usize = 16;
    const MAX_KEY_CHARS: usize = 64;
    const MAX_VALUE_CHARS: usize = 512;
    let given: Map<String, Value> = fields.take("metadata", "an object")?.unwrap_or_default();
    let fits = |(key, value): (&String, &Value)| {
        key.chars().count() <= MAX_KEY_CHARS
            && value.as_str().is_some_and(|text| text.chars().count() <= MAX_VALUE_CHARS)
    };
    if given.len() > MAX_ENTRIES || !given.iter().all(fits) {
        let message = format!(
            "metadata must have at most {MAX_ENTRIES} entries, with names of at most {MAX_KEY_CHARS} characters and \
             texts of at most {MAX_VALUE_CHARS}"
        );
        return Err(ApiError::invalid("metadata", message));
    }
    Ok(Value::Object(given))
}

fn take_truncation(
    fields: &mut Fields<'_>,
    echoed: &mut Map<String, Value>,
) -> Result<bool, ApiError> {
    let truncation = fields.take_string("truncation")?.unwrap_or_else(|| "disabled".into());
    if !["auto", "disabled"].contains(&truncation.as_str()) {
        return Err(ApiError::invalid("truncation", "truncation must be auto or disabled"));
    }
    let truncates = truncation == "auto";
    echoed.insert("truncation".into(), truncation.into());
    Ok(truncates)
}
