//! GLM from 4.5 on: `<tool_call>NAME<arg_key>key</arg_key><arg_value>value</arg_value>…</tool_call>`, with or without
//! line feeds between. Strings are raw, other values JSON.

use serde_json::{Map, Value};

use super::cursor::{Cursor, Scan, Stop};
use super::{Ids, RawCall, ToolFormat, ToolSet, json};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    name: "glm",
    aliases: &["glm45", "glm47"],
    signs: &[&["<arg_key>", "<arg_value>"]],
    openers: &[OPEN],
    leading: &[],
    closers: &[],
    inner: &[CLOSE, KEY, END_KEY, VALUE, END_VALUE],
    prefix: "",
    read,
    ids: Ids::Call,
};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const KEY: &str = "<arg_key>";
const END_KEY: &str = "</arg_key>";
const VALUE: &str = "<arg_value>";
const END_VALUE: &str = "</arg_value>";

fn read(cursor: &mut Cursor<'_>, tools: &ToolSet) -> Scan<Vec<RawCall>> {
    cursor.expect(OPEN)?;
    let name = cursor.name_before(&[KEY, CLOSE])?;
    let mut arguments = Map::new();
    loop {
        cursor.skip_space();
        match cursor.take_any(&[KEY, CLOSE])? {
            Some(KEY) => {}
            Some(_) => break,
            None => return Err(Stop::Malformed),
        }
        let key = cursor.key_until(END_KEY)?;
        cursor.skip_space();
        cursor.expect(VALUE)?;
        let value = cursor.value_until(END_VALUE, &[KEY, CLOSE])?;
        json::put(&mut arguments, key, tools.typed(name, key, value))?;
    }
    let arguments = Value::Object(arguments).to_string();
    Ok(vec![RawCall { id: None, name: name.to_owned(), arguments }])
}
