//! Gemma 4: `<|tool_call>call:NAME{key:<|"|>text<|"|>,other:[1,true]}<tool_call|>`.

use serde_json::{Map, Value};

use super::cursor::{Cursor, Scan, Stop};
use super::set::literal;
use super::{Ids, RawCall, ToolFormat, ToolSet, json};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    name: "gemma4",
    aliases: &[],
    signs: &[&["<|tool_call>call:"]],
    openers: &[OPEN],
    leading: &[],
    closers: &[],
    inner: &[CLOSE, QUOTE],
    prefix: "",
    read,
    ids: Ids::Call,
};

const OPEN: &str = "<|tool_call>";
const CLOSE: &str = "<tool_call|>";
const QUOTE: &str = "<|\"|>";

/// Lists and objects inside each other.
const MAX_DEPTH: usize = 64;

fn read(cursor: &mut Cursor<'_>, _: &ToolSet) -> Scan<Vec<RawCall>> {
    cursor.expect(OPEN)?;
    cursor.expect("call:")?;
    let name = cursor.name_before(&["{"])?.to_owned();
    let Value::Object(arguments) = value(cursor, 0)? else { return Err(Stop::Malformed) };
    cursor.skip_space();
    cursor.expect_or_end(CLOSE)?;
    let arguments = Value::Object(arguments).to_string();
    Ok(vec![RawCall { id: None, name, arguments }])
}

fn value(cursor: &mut Cursor<'_>, depth: usize) -> Scan<Value> {
    if depth > MAX_DEPTH {
        return Err(Stop::Malformed);
    }
    cursor.skip_space();
    match cursor.take_any(&["{", "[", QUOTE, "\""])? {
        Some("{") => object(cursor, depth),
        Some("[") => list(cursor, depth),
        Some(QUOTE) => Ok(Value::String(cursor.until(QUOTE)?.to_owned())),
        Some(_) => Ok(Value::String(cursor.json_string()?)),
        None => bare(cursor),
    }
}

fn object(cursor: &mut Cursor<'_>, depth: usize) -> Scan<Value> {
    let mut entries = Map::new();
    cursor.skip_space();
    if cursor.take("}")? {
        return Ok(Value::Object(entries));
    }
    loop {
        cursor.skip_space();
        let key = match cursor.take_any(&[QUOTE, "\""])? {
            Some(QUOTE) => cursor.until(QUOTE)?.to_owned(),
            Some(_) => cursor.json_string()?,
            None => cursor.key_before(&[":"])?.to_owned(),
        };
        cursor.skip_space();
        cursor.expect(":")?;
        json::put(&mut entries, &key, value(cursor, depth + 1)?)?;
        if !cursor.has_more("}")? {
            return Ok(Value::Object(entries));
        }
    }
}

fn list(cursor: &mut Cursor<'_>, depth: usize) -> Scan<Value> {
    let mut items = Vec::new();
    cursor.skip_space();
    if cursor.take("]")? {
        return Ok(Value::Array(items));
    }
    loop {
        items.push(value(cursor, depth + 1)?);
        if !cursor.has_more("]")? {
            return Ok(Value::Array(items));
        }
    }
}

/// A number or a word, as JSON or as Python has it: the template prints both. Else a string without quotes.
fn bare(cursor: &mut Cursor<'_>) -> Scan<Value> {
    let text = cursor.key_before(&[",", "}", "]"])?;
    Ok(literal(text).unwrap_or_else(|| Value::String(text.to_owned())))
}
