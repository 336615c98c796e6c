//! The fields of OpenAI's API that say what a model may call.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{ApiError, shortened};
use crate::http::fields::Fields;
use crate::limits::ServerLimits;
use crate::text::{ChatInput, Tool, ToolChoice, ToolRequest, ToolSet};

#[derive(Deserialize)]
struct RawTool {
    r#type: String,
    function: Option<RawFunction>,
}

#[derive(Deserialize)]
struct RawFunction {
    name: String,
    description: Option<String>,
    parameters: Option<Value>,
    strict: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawChoice {
    Mode(String),
    Named { function: RawName },
    Allowed { allowed_tools: RawAllowed },
}

#[derive(Deserialize)]
struct RawName {
    name: String,
}

#[derive(Deserialize)]
struct RawAllowed {
    mode: String,
    tools: Vec<RawAllowedTool>,
}

#[derive(Deserialize)]
struct RawAllowedTool {
    function: RawName,
}

const MAX_NAME_LEN: usize = 128;

/// The tools of a request; those that may be called go into `chat` for the template.
pub(crate) fn take_tools(
    fields: &mut Fields<'_>,
    chat: &mut ChatInput,
    limits: &ServerLimits,
) -> Result<ToolRequest, ApiError> {
    let given: Option<Vec<Value>> = fields.take("tools", "a list of objects")?;
    let choice: Option<RawChoice> = fields
        .take("tool_choice", "none, auto, required, or an object with the function's name")?;
    let is_single = !fields.take_bool("parallel_tool_calls")?.unwrap_or(true);
    let Some(mut given) = given else { return without_tools(choice, is_single) };
    if given.is_empty() {
        return Err(ApiError::invalid("tools", "tools has no entries: leave the field out"));
    }
    if given.len() > limits.max_tools {
        let message = format!("tools has over {} entries (--max-tools)", limits.max_tools);
        return Err(ApiError::invalid("tools", message));
    }
    let mut tools: Vec<Tool> =
        given.iter().enumerate().map(|(i, tool)| convert(i, tool)).collect::<Result<_, _>>()?;
    let choice = match choice.unwrap_or_else(|| RawChoice::Mode("auto".into())) {
        RawChoice::Mode(mode) => choice_of(&mode)?,
        RawChoice::Named { function } => ToolChoice::Named(known(&tools, function.name)?),
        RawChoice::Allowed { allowed_tools } => {
            let names =
                allowed_tools.tools.into_iter().map(|tool| known(&tools, tool.function.name));
            let names: Vec<String> = names.collect::<Result<_, _>>()?;
            let mut keep =
                tools.iter().map(|tool| names.contains(&tool.name)).collect::<Vec<_>>().into_iter();
            given.retain(|_| keep.next().unwrap_or(false));
            tools.retain(|tool| names.contains(&tool.name));
            choice_of(&allowed_tools.mode)?
        }
    };
    if let ToolChoice::Named(name) = &choice {
        tools.retain(|tool| tool.name == *name);
    }
    // A model that may not call is not told of tools.
    chat.tools = (choice != ToolChoice::None).then_some(Value::Array(given));
    Ok(ToolRequest { tools: Arc::new(ToolSet(tools)), choice, is_single })
}

fn without_tools(choice: Option<RawChoice>, is_single: bool) -> Result<ToolRequest, ApiError> {
    match choice {
        None => {}
        Some(RawChoice::Mode(mode)) if choice_of(&mode)? != ToolChoice::Required => {}
        Some(_) => return Err(ApiError::invalid("tool_choice", "tool_choice needs tools")),
    }
    Ok(ToolRequest { is_single, ..ToolRequest::default() })
}

fn choice_of(mode: &str) -> Result<ToolChoice, ApiError> {
    match mode {
        "none" => Ok(ToolChoice::None),
        "auto" => Ok(ToolChoice::Auto),
        "required" => Ok(ToolChoice::Required),
        other => {
            let message =
                format!("tool_choice must be none, auto or required, not {:?}", shortened(other));
            Err(ApiError::invalid("tool_choice", message))
        }
    }
}

fn known(tools: &[Tool], name: String) -> Result<String, ApiError> {
    if tools.iter().any(|tool| tool.name == name) {
        return Ok(name);
    }
    let message = format!("tool_choice names {:?}, which tools does not have", shortened(&name));
    Err(ApiError::invalid("tool_choice", message))
}

fn convert(index: usize, tool: &Value) -> Result<Tool, ApiError> {
    let invalid = |message: String| ApiError::invalid("tools", message);
    let raw = RawTool::deserialize(tool)
        .map_err(|error| invalid(format!("tools[{index}] is not a tool: {error}")))?;
    let function = match (raw.r#type.as_str(), raw.function) {
        ("function", Some(function)) => function,
        ("function", None) => return Err(invalid(format!("tools[{index}].function is missing"))),
        (other, _) => {
            let other = shortened(other);
            let message = format!("tools[{index}].type must be \"function\", not {other:?}");
            return Err(invalid(message));
        }
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:/".contains(&byte);
    let name = function.name;
    if name.is_empty() || name.len() > MAX_NAME_LEN || !name.bytes().all(is_name) {
        let message = format!(
            "tools[{index}].function.name must be 1 to {MAX_NAME_LEN} letters, digits, or any of _-.:/"
        );
        return Err(invalid(message));
    }
    let parameters = function.parameters.filter(|schema| !schema.is_null());
    if parameters.as_ref().is_some_and(|schema| !schema.is_object()) {
        let message =
            format!("tools[{index}].function.parameters must be a JSON schema, an object");
        return Err(invalid(message));
    }
    let is_strict = function.strict.unwrap_or(false);
    Ok(Tool { name, description: function.description, parameters, is_strict })
}
