//! Tools for models whose template says nothing of them, or in a form that is not known: told in the system message.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::text::ChatInput;

/// Moves the tools of a conversation into its messages, as text in the form of Hermes.
pub(in crate::text) fn tell(chat: &mut ChatInput) {
    for message in &mut chat.messages {
        write_calls(message);
    }
    if let Some(tools) = chat.tools.take() {
        instruct(&mut chat.messages, &instructions(&tools));
    }
}

fn instructions(tools: &Value) -> String {
    let mut text =
        "You can call these functions. Each line is one, with a JSON schema of its arguments:\n"
            .to_owned();
    for tool in tools.as_array().into_iter().flatten() {
        let function = tool.get("function").unwrap_or(tool);
        writeln!(text, "{function}").expect("a String takes all that is written");
    }
    text.push_str(
        "\nTo call a function, write its name and arguments as JSON between these tags, once for each call:\n\
         <tool_call>\n{\"name\": \"the function\", \"arguments\": {\"its argument\": \"a value\"}}\n</tool_call>\n\
         What it gives back comes between <tool_response> and </tool_response>. Otherwise answer in words.",
    );
    text
}

/// Puts the instructions behind the system message, or makes one.
fn instruct(messages: &mut Vec<Value>, instructions: &str) {
    if let Some(first) = messages.first_mut().filter(|message| message["role"] == "system") {
        let before = first["content"].as_str().unwrap_or("").trim_end();
        first["content"] =
            Value::String(format!("{before}\n\n{instructions}").trim_start().to_owned());
        return;
    }
    messages.insert(0, json!({"role": "system", "content": instructions}));
}

/// Calls and results of earlier turns, as text.
fn write_calls(message: &mut Value) {
    let text = message["content"].as_str().unwrap_or("").to_owned();
    if message["role"] == "tool" {
        *message = json!({"role": "user", "content": format!("<tool_response>\n{text}\n</tool_response>")});
        return;
    }
    let Some(Value::Array(calls)) = message.as_object_mut().and_then(|m| m.remove("tool_calls"))
    else {
        return;
    };
    let mut text = text;
    for call in &calls {
        let function = &call["function"];
        let arguments = match &function["arguments"] {
            Value::String(text) if !text.trim().is_empty() => text.clone(),
            Value::Object(_) => function["arguments"].to_string(),
            _ => "{}".to_owned(),
        };
        let line_feed = if text.is_empty() { "" } else { "\n" };
        let name = &function["name"];
        write!(
            text,
            "{line_feed}<tool_call>\n{{\"name\": {name}, \"arguments\": {arguments}}}\n</tool_call>"
        )
        .expect("a String takes all that is written");
    }
    message["content"] = Value::String(text);
}
