//! DeepSeek V3.2 and V4: `<｜DSML｜invoke name="NAME"><｜DSML｜parameter name="KEY" string="true">…`, in a block of calls.

use serde_json::{Map, Value};

use super::cursor::{Cursor, Scan, Stop};
use super::{Ids, RawCall, ToolFormat, ToolSet, json};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    name: "dsml",
    aliases: &["deepseek_v32", "deepseek_v4"],
    signs: &[&["｜DSML｜"]],
    openers: &[BLOCKS[0], BLOCKS[1], INVOKE],
    leading: &[],
    closers: &["</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"],
    inner: &["｜DSML｜"],
    prefix: "",
    read,
    ids: Ids::Call,
};

const BLOCKS: &[&str] = &["<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"];
const INVOKE: &str = "<｜DSML｜invoke name=\"";
const END_INVOKE: &str = "</｜DSML｜invoke>";
const PARAMETER: &str = "<｜DSML｜parameter name=\"";
const END_PARAMETER: &str = "</｜DSML｜parameter>";

fn read(cursor: &mut Cursor<'_>, tools: &ToolSet) -> Scan<Vec<RawCall>> {
    if cursor.take_any(BLOCKS)?.is_some() {
        cursor.skip_space();
    }
    cursor.expect(INVOKE)?;
    let name = cursor.name_until("\">")?;
    let mut arguments = Map::new();
    loop {
        cursor.skip_space();
        match cursor.take_any(&[PARAMETER, END_INVOKE])? {
            Some(PARAMETER) => {}
            Some(_) => break,
            None => return Err(Stop::Malformed),
        }
        let key = cursor.key_until("\"")?;
        cursor.skip_space();
        let is_string = match cursor.take_any(&["string=\"true\">", "string=\"false\">", ">"])? {
            Some(attribute) => attribute == "string=\"true\">",
            None => return Err(Stop::Malformed),
        };
        let text = cursor.value_until(END_PARAMETER, &[PARAMETER, END_INVOKE])?;
        let value = match is_string {
            true => Value::String(text.to_owned()),
            false => serde_json::from_str(text).unwrap_or_else(|_| tools.typed(name, key, text)),
        };
        json::put(&mut arguments, key, value)?;
    }
    let arguments = Value::Object(arguments).to_string();
    Ok(vec![RawCall { id: None, name: name.to_owned(), arguments }])
}
