//! Llama 3 (and 4, as its own template says it): the answer is `{"name": …, "parameters": {…}}`, or several with `;`
//! between, perhaps behind `<|python_tag|>`.

use super::cursor::{Cursor, Scan, Stop};
use super::{Ids, RawCall, ToolFormat, ToolSet, json};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    name: "llama3_json",
    aliases: &["llama4_json", "llama3", "llama"],
    signs: &[
        &["{\"name\": function name, \"parameters\""],
        &["'{\"name\": \"' + tool_call.name", "\"parameters\": "],
        &["<|python_tag|>"],
    ],
    openers: &[TAGS[0], TAGS[1]],
    leading: &["{"],
    closers: &[";", "<|python_end|>"],
    inner: &[],
    prefix: "{\"name\": \"{name}\", \"parameters\": ",
    read,
    ids: Ids::Call,
};

const TAGS: &[&str] = &["<|python_tag|>", "<|python_start|>"];

fn read(cursor: &mut Cursor<'_>, tools: &ToolSet) -> Scan<Vec<RawCall>> {
    if cursor.take_any(TAGS)?.is_some() {
        cursor.skip_space();
    }
    let text = cursor.json()?;
    let calls = if text.starts_with('[') { json::calls(text)? } else { vec![json::call(text)?] };
    // Any JSON may be an answer: only a tool that exists can be called.
    let is_known = |call: &RawCall| tools.get(&call.name).is_some();
    if calls.iter().all(is_known) { Ok(calls) } else { Err(Stop::Malformed) }
}
