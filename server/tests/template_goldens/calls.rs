//! Calls as real chat templates write them are read back. `make tokenizers` brings the templates.

use std::fs;
use std::sync::Arc;

use quire_server::text::{
    ChatInput, OutputFormats, OutputOptions, OutputParser, ParsedMessage, Tool, ToolChoice,
    ToolRequest, ToolSet,
};
use serde_json::{Value, json};

use super::load;
use crate::fetched::fetched;

/// Templates, and how many calls each takes in a message.
const TEMPLATES: &[(&str, usize)] = &[
    ("Qwen-Qwen2.5-7B-Instruct", 2),
    ("Qwen-Qwen3-0.6B", 2),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", 2),
    ("ibm-granite-granite-4.0", 2),
    ("Qwen3-Coder", 2),
    ("Qwen3.5-4B", 2),
    ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", 2),
    ("meta-llama-Llama-3.1-8B-Instruct", 1),
    ("meta-llama-Llama-3.2-3B-Instruct", 1),
    ("LFM2.5-8B-A1B", 2),
    ("mistralai-Mistral-Nemo-Instruct-2407", 2),
    ("Mistral-Small-3.2-24B-Instruct-2506", 2),
    ("mistralai-Ministral-3-14B-Reasoning-2512", 2),
    ("openai-gpt-oss-120b", 1),
    ("google-gemma-4-31B-it", 2),
    ("google-gemma-4-31B-it-interleaved", 2),
    ("GLM-4.6", 2),
    ("GLM-4.7-Flash", 2),
    ("llama-cpp-deepseek-r1", 2),
    ("deepseek-ai-DeepSeek-V3.1", 2),
    ("deepseek-ai-DeepSeek-V3.2", 2),
    ("deepseek-ai-DeepSeek-V4-Flash-0731", 2),
];

fn calls() -> [(&'static str, Value); 2] {
    let first = json!({"city": "New \"York\" é", "days": 3, "flags": [true, null, {"a": -1.5}], "fast": false});
    [("weather", first), ("now", json!({}))]
}

fn tools() -> ToolSet {
    let properties = json!({
        "city": {"type": "string"}, "days": {"type": "integer"}, "flags": {"type": "array"}, "fast": {"type": "boolean"},
    });
    let tool = |name: &str, properties: Value| Tool {
        name: name.to_owned(),
        description: Some("what it does".to_owned()),
        parameters: Some(json!({"type": "object", "properties": properties, "required": []})),
        is_strict: false,
    };
    ToolSet(vec![tool("weather", properties), tool("now", json!({}))])
}

#[test]
fn calls_that_templates_write_are_read() {
    for &(name, num_calls) in TEMPLATES {
        let Some(path) = fetched(&format!("templates/{name}.jinja")) else { continue };
        let source = fs::read_to_string(path).expect("templates are UTF-8");
        let expected = &calls()[..num_calls];
        let found = read_back(&source, expected).unwrap_or_else(|error| panic!("{name}: {error}"));
        let arguments = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let found: Vec<_> =
            found.tool_calls.iter().map(|call| (&*call.name, arguments(&call.arguments))).collect();
        assert_eq!(found, expected, "{name}");
    }
}

/// Renders a message with these calls and parses what it says.
fn read_back(source: &str, calls: &[(&str, Value)]) -> Result<ParsedMessage, String> {
    let template = load(source).map_err(|error| error.to_string())?;
    let tools = tools();
    let listed = tools.0.iter().map(|tool| {
        let (name, description, parameters) = (&tool.name, &tool.description, &tool.parameters);
        let function = json!({"name": name, "description": description, "parameters": parameters});
        json!({"type": "function", "function": function})
    });
    let listed = Value::Array(listed.collect());
    let render = |messages: Value| {
        let messages = messages.as_array().cloned().unwrap_or_default();
        let input = ChatInput { messages, tools: Some(listed.clone()), ..ChatInput::default() };
        template.render(&input).map(|prompt| prompt.text).map_err(|error| error.to_string())
    };
    let entry = |(index, (name, arguments)): (usize, &(&str, Value))| {
        let function = json!({"name": name, "arguments": arguments.to_string()});
        json!({"id": format!("call_{index}"), "type": "function", "function": function})
    };
    let entries: Vec<Value> = calls.iter().enumerate().map(entry).collect();
    let question = json!({"role": "user", "content": "Hi"});
    let before = render(json!([question]))?;
    let all =
        render(json!([question, {"role": "assistant", "content": "", "tool_calls": entries}]))?;
    let same = before.chars().zip(all.chars()).take_while(|(a, b)| a == b);
    let answer = &all[same.map(|(a, _)| a.len_utf8()).sum()..];
    let request =
        ToolRequest { tools: Arc::new(tools), choice: ToolChoice::Auto, is_single: false };
    let mut formats = OutputFormats::of_template(source);
    if formats.reasoning.is_some_and(|format| format.name != "harmony") {
        formats.reasoning = None;
    }
    // Headers of the message are no part of an answer: Llama's calls are the whole of theirs.
    let answer = answer.rsplit("<|end_header_id|>\n\n").next().unwrap_or(answer);
    let mut parser = OutputParser::new(&OutputOptions::new(formats, request, "", false));
    let (mut events, mut message) = (Vec::new(), ParsedMessage::default());
    parser.push(answer, &mut events);
    parser.finish(&mut events);
    events.into_iter().for_each(|event| message.add(event));
    Ok(message)
}
