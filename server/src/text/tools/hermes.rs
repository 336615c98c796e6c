//! Hermes, Qwen 2.5 and 3, and many after them: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, again and again. Small
//! ones forget the tags, and answer with the JSON alone, often in a fence of Markdown.

use super::cursor::{Cursor, Scan, Stop};
use super::{Ids, RawCall, ToolFormat, ToolSet, json};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    name: "hermes",
    aliases: &["qwen", "qwen2_5", "qwen3", "granite4"],
    signs: &[&["<tool_call>"]],
    openers: &[OPEN],
    leading: &["`", "{", "["],
    closers: &[],
    inner: &[CLOSE],
    prefix: "<tool_call>\n{\"name\": \"{name}\", \"arguments\": ",
    read,
    ids: Ids::Call,
};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

const FENCE: &str = "```";

fn read(cursor: &mut Cursor<'_>, tools: &ToolSet) -> Scan<Vec<RawCall>> {
    if !cursor.rest().starts_with('<') {
        return read_bare(cursor, tools);
    }
    cursor.expect(OPEN)?;
    cursor.skip_space();
    let call = json::call(cursor.json()?)?;
    cursor.skip_space();
    cursor.expect_or_end(CLOSE)?;
    Ok(vec![call])
}

/// Calls without tags. Any JSON may be an answer: it must be the whole answer, and call tools that exist.
fn read_bare(cursor: &mut Cursor<'_>, tools: &ToolSet) -> Scan<Vec<RawCall>> {
    let is_fenced = cursor.take(FENCE)?;
    if is_fenced {
        cursor.take("json")?;
        cursor.skip_space();
    }
    check_name(cursor.clone(), tools)?;
    let text = cursor.json()?;
    let calls = if text.starts_with('[') { json::calls(text)? } else { vec![json::call(text)?] };
    if calls.iter().any(|call| tools.get(&call.name).is_none()) {
        return Err(Stop::Malformed);
    }
    cursor.skip_space();
    if is_fenced {
        cursor.expect_or_end(FENCE)?;
    }
    cursor.expect_end()?;
    Ok(calls)
}

/// Whether a tool's name comes first, so that no other answer waits for its end.
fn check_name(mut cursor: Cursor<'_>, tools: &ToolSet) -> Scan<()> {
    if cursor.take("[")? {
        cursor.skip_space();
    }
    for token in ["{", "\"name\"", ":", "\""] {
        cursor.expect(token)?;
        if token != "\"" {
            cursor.skip_space();
        }
    }
    tools.get(&cursor.json_string()?).map(|_| ()).ok_or(Stop::Malformed)
}
