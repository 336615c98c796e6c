//! Hermes, Qwen 2.5 and 3, and many after them: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, again and again.

use super::cursor::{Cursor, Scan};
use super::{Ids, RawCall, ToolFormat, ToolSet, json};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    name: "hermes",
    aliases: &["qwen", "qwen2_5", "qwen3", "granite4"],
    signs: &[&["<tool_call>"]],
    openers: &[OPEN],
    leading: &[],
    closers: &[],
    inner: &[CLOSE],
    prefix: "<tool_call>\n{\"name\": \"{name}\", \"arguments\": ",
    read,
    ids: Ids::Call,
};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

fn read(cursor: &mut Cursor<'_>, _: &ToolSet) -> Scan<Vec<RawCall>> {
    cursor.expect(OPEN)?;
    cursor.skip_space();
    let call = json::call(cursor.json()?)?;
    cursor.skip_space();
    cursor.expect_or_end(CLOSE)?;
    Ok(vec![call])
}
