//! Qwen3-Coder, Qwen 3.5 and 3.6: `<tool_call><function=NAME><parameter=KEY>value</parameter>…</function></tool_call>`.
//!
//! Values are raw text with a line feed on either side; the schema says what they are. Models leave out `<tool_call>`
//! now and then, or `</function>`.

use serde_json::{Map, Value};

use super::cursor::{Cursor, Scan, Stop};
use super::{Ids, RawCall, ToolFormat, ToolSet, json};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    name: "qwen3_coder",
    aliases: &["qwen3_xml", "seed_oss", "step3p5", "nemotron3"],
    signs: &[&["<function=", "<parameter="]],
    openers: &[OPEN, OPEN_SEED, FUNCTION],
    leading: &[],
    closers: &[CLOSE, "</seed:tool_call>"],
    inner: &[],
    prefix: "",
    read,
    ids: Ids::Call,
};

const OPEN: &str = "<tool_call>";
const OPEN_SEED: &str = "<seed:tool_call>";
const CLOSE: &str = "</tool_call>";
const FUNCTION: &str = "<function=";
const PARAMETER: &str = "<parameter=";
const END_PARAMETER: &str = "</parameter>";
const END_FUNCTION: &str = "</function>";

fn read(cursor: &mut Cursor<'_>, tools: &ToolSet) -> Scan<Vec<RawCall>> {
    cursor.take_any(&[OPEN, OPEN_SEED])?;
    cursor.skip_space();
    cursor.expect(FUNCTION)?;
    let name = cursor.name_until(">")?;
    let mut arguments = Map::new();
    loop {
        cursor.skip_space();
        match cursor.take_any(&[PARAMETER, END_FUNCTION, CLOSE])? {
            Some(PARAMETER) => {}
            Some(_) => break,
            None => return Err(Stop::Malformed),
        }
        let key = cursor.key_until(">")?;
        let value = cursor.value_until(END_PARAMETER, &[PARAMETER, END_FUNCTION, CLOSE])?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        json::put(&mut arguments, key, tools.typed(name, key, value))?;
    }
    let arguments = Value::Object(arguments).to_string();
    Ok(vec![RawCall { id: None, name: name.to_owned(), arguments }])
}
