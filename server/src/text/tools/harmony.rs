//! Harmony (gpt-oss): a message to a function, `<|channel|>commentary to=functions.NAME<|message|>{…}<|call|>`, as
//! `reasoning/harmony.rs` passes it on.

use super::cursor::{Cursor, Scan};
use super::{Ids, RawCall, ToolFormat, ToolSet, json};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    name: "harmony",
    aliases: &["openai", "gpt_oss", "gptoss"],
    signs: &[&["<|channel|>", "<|message|>", "<|start|>"]],
    openers: &[OPEN],
    leading: &[],
    closers: &[],
    inner: &[MESSAGE, CLOSE],
    prefix: "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>",
    read,
    ids: Ids::Call,
};

const OPEN: &str = "<|channel|>commentary to=";
const MESSAGE: &str = "<|message|>";
const CLOSE: &str = "<|call|>";

fn read(cursor: &mut Cursor<'_>, _: &ToolSet) -> Scan<Vec<RawCall>> {
    cursor.expect(OPEN)?;
    let name = cursor.name_until(MESSAGE)?;
    let name = name.strip_prefix("functions.").unwrap_or(name).to_owned();
    cursor.skip_space();
    let arguments = json::arguments(cursor.json()?)?;
    cursor.skip_space();
    cursor.expect_or_end(CLOSE)?;
    Ok(vec![RawCall { id: None, name, arguments }])
}
