//! Calls that a request demands: a grammar holds the answer to JSON, and the prompt ends with what a call begins with.

use serde_json::{Value, json};

use super::cursor::{Cursor, Scan, Stop};
use super::{Ids, RawCall, Tool, ToolChoice, ToolFormat, ToolRequest, ToolSet, json as json_calls};

/// The arguments of the one tool.
pub(super) const NAMED: ToolFormat = ToolFormat {
    name: "named",
    aliases: &[],
    signs: &[],
    openers: &[],
    leading: &["{"],
    closers: &[],
    inner: &[],
    prefix: "",
    read: read_arguments,
    ids: Ids::Call,
};

/// A list of calls.
pub(super) const REQUIRED: ToolFormat =
    ToolFormat { name: "required", leading: &["["], read: read_list, ..NAMED };

impl ToolRequest {
    /// The JSON schema that an answer with the demanded calls follows; `None` where no call is demanded.
    pub fn answer_schema(&self) -> Option<Value> {
        match &self.choice {
            ToolChoice::None | ToolChoice::Auto => None,
            ToolChoice::Named(name) => self.tools.get(name).map(arguments_of),
            ToolChoice::Required => {
                let call = |tool: &Tool| {
                    let name = json!({"type": "string", "enum": [tool.name]});
                    json!({
                        "type": "object",
                        "properties": {"name": name, "arguments": arguments_of(tool)},
                        "required": ["name", "arguments"],
                        "additionalProperties": false,
                    })
                };
                let calls: Vec<Value> = self.tools.0.iter().map(call).collect();
                let mut list = json!({"type": "array", "items": {"anyOf": calls}, "minItems": 1});
                if self.is_single {
                    list["maxItems"] = 1.into();
                }
                Some(list)
            }
        }
    }
}

fn arguments_of(tool: &Tool) -> Value {
    let mut schema = tool.parameters.clone().unwrap_or_else(|| json!({}));
    if schema.get("type").is_none() {
        schema["type"] = "object".into();
    }
    schema
}

fn read_arguments(cursor: &mut Cursor<'_>, tools: &ToolSet) -> Scan<Vec<RawCall>> {
    let arguments = json_calls::arguments(cursor.json()?)?;
    let [tool] = tools.0.as_slice() else { return Err(Stop::Malformed) };
    Ok(vec![RawCall { id: None, name: tool.name.clone(), arguments }])
}

fn read_list(cursor: &mut Cursor<'_>, _: &ToolSet) -> Scan<Vec<RawCall>> {
    json_calls::calls(cursor.json()?)
}
