//! Kimi K2: `<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`, in a section.

use super::cursor::{Cursor, Scan};
use super::{Ids, RawCall, ToolFormat, ToolSet, json};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    name: "kimi_k2",
    aliases: &[],
    signs: &[&[BEGIN_ALL, ARGUMENTS]],
    openers: &[BEGIN_ALL, BEGIN],
    leading: &[],
    closers: &["<|tool_calls_section_end|>"],
    inner: &[ARGUMENTS, END],
    prefix: "<|tool_calls_section_begin|><|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>",
    read,
    ids: Ids::Call,
};

const BEGIN_ALL: &str = "<|tool_calls_section_begin|>";
const BEGIN: &str = "<|tool_call_begin|>";
const ARGUMENTS: &str = "<|tool_call_argument_begin|>";
const END: &str = "<|tool_call_end|>";

fn read(cursor: &mut Cursor<'_>, _: &ToolSet) -> Scan<Vec<RawCall>> {
    if cursor.take(BEGIN_ALL)? {
        cursor.skip_space();
    }
    cursor.expect(BEGIN)?;
    let id = cursor.name_until(ARGUMENTS)?;
    let name = id.split(':').next().unwrap_or(id);
    let name = name.strip_prefix("functions.").unwrap_or(name).to_owned();
    cursor.skip_space();
    let arguments = json::arguments(cursor.json()?)?;
    cursor.skip_space();
    cursor.expect_or_end(END)?;
    // The model counts its calls itself, and its template wants these ids back.
    Ok(vec![RawCall { id: Some(id.to_owned()), name, arguments }])
}
