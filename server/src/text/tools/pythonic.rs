//! Python calls in a list: `[f(a=1, b="x"), g()]`. Llama 4 writes them as the whole answer, LFM2 between markers.

use serde_json::{Map, Value};

use super::cursor::{Cursor, Scan, Stop};
use super::{Ids, RawCall, ToolFormat, ToolSet, json};

pub(super) const FORMAT: ToolFormat = ToolFormat {
    name: "pythonic",
    aliases: &["llama4_pythonic", "llama4", "lfm2", "olmo3"],
    signs: &[&["[func_name1("], &["<|tool_call_start|>"]],
    openers: &[TAGS[0], TAGS[1], TAGS[2]],
    leading: &["["],
    closers: &["<|python_end|>", "<|tool_call_end|>"],
    inner: &[],
    prefix: "",
    read,
    ids: Ids::Call,
};

const TAGS: &[&str] = &["<|python_start|>", "<|python_tag|>", "<|tool_call_start|>"];

/// Lists and objects inside each other.
const MAX_DEPTH: usize = 64;

fn read(cursor: &mut Cursor<'_>, tools: &ToolSet) -> Scan<Vec<RawCall>> {
    if cursor.take_any(TAGS)?.is_some() {
        cursor.skip_space();
    }
    cursor.expect("[")?;
    let mut calls = Vec::new();
    loop {
        cursor.skip_space();
        let name = cursor.name_until("(")?;
        // A list may be an answer: only a tool that exists can be called.
        if tools.get(name).is_none() {
            return Err(Stop::Malformed);
        }
        let arguments = Value::Object(arguments(cursor)?).to_string();
        calls.push(RawCall { id: None, name: name.to_owned(), arguments });
        if !cursor.has_more("]")? {
            return Ok(calls);
        }
    }
}

/// `key=value, …)`
fn arguments(cursor: &mut Cursor<'_>) -> Scan<Map<String, Value>> {
    let mut found = Map::new();
    loop {
        cursor.skip_space();
        if cursor.take(")")? {
            return Ok(found);
        }
        let key = cursor.name_until("=")?.to_owned();
        json::put(&mut found, &key, value(cursor, 0)?)?;
        if !cursor.has_more(")")? {
            return Ok(found);
        }
    }
}

/// A literal of Python.
fn value(cursor: &mut Cursor<'_>, depth: usize) -> Scan<Value> {
    if depth > MAX_DEPTH {
        return Err(Stop::Malformed);
    }
    cursor.skip_space();
    match cursor.take_any(&["{", "[", "(", "\"", "'"])? {
        Some("{") => object(cursor, depth),
        Some("[") => list(cursor, "]", depth),
        Some("(") => list(cursor, ")", depth),
        Some(quote) => Ok(Value::String(string(cursor, quote)?)),
        None => word(cursor),
    }
}

fn list(cursor: &mut Cursor<'_>, close: &'static str, depth: usize) -> Scan<Value> {
    let mut items = Vec::new();
    loop {
        cursor.skip_space();
        if cursor.take(close)? {
            return Ok(Value::Array(items));
        }
        items.push(value(cursor, depth + 1)?);
        if !cursor.has_more(close)? {
            return Ok(Value::Array(items));
        }
    }
}

fn object(cursor: &mut Cursor<'_>, depth: usize) -> Scan<Value> {
    let mut entries = Map::new();
    loop {
        cursor.skip_space();
        if cursor.take("}")? {
            return Ok(Value::Object(entries));
        }
        let Value::String(key) = value(cursor, depth + 1)? else { return Err(Stop::Malformed) };
        cursor.skip_space();
        cursor.expect(":")?;
        json::put(&mut entries, &key, value(cursor, depth + 1)?)?;
        if !cursor.has_more("}")? {
            return Ok(Value::Object(entries));
        }
    }
}

/// A number, `True`, `False` or `None`, as JSON or as Python spells them.
fn word(cursor: &mut Cursor<'_>) -> Scan<Value> {
    let text = cursor.key_before(&[",", ")", "]", "}", ":"])?;
    match text {
        "True" => Ok(Value::Bool(true)),
        "False" => Ok(Value::Bool(false)),
        "None" => Ok(Value::Null),
        _ => serde_json::from_str(text).map_err(|_| Stop::Malformed),
    }
}

/// Up to `quote`, with Python's escapes.
fn string(cursor: &mut Cursor<'_>, quote: &'static str) -> Scan<String> {
    let mut text = String::new();
    loop {
        let rest = cursor.rest();
        let Some(at) = rest.find(['\\', '\'', '"']) else { return Err(cursor.more(Some(quote))) };
        text.push_str(&rest[..at]);
        cursor.advance(at);
        if cursor.take(quote)? {
            return Ok(text);
        }
        if !cursor.take("\\")? {
            text.push_str(&rest[at..=at]);
            cursor.advance(1);
            continue;
        }
        let Some(escape) = cursor.rest().chars().next() else { return Err(cursor.more(None)) };
        cursor.advance(escape.len_utf8());
        match escape {
            'n' => text.push('\n'),
            't' => text.push('\t'),
            'r' => text.push('\r'),
            '\n' => {}
            '\\' | '\'' | '"' => text.push(escape),
            'x' => text.push(code_point(cursor, 2)?),
            'u' => text.push(code_point(cursor, 4)?),
            'U' => text.push(code_point(cursor, 8)?),
            other => text.extend(['\\', other]),
        }
    }
}

fn code_point(cursor: &mut Cursor<'_>, num_digits: usize) -> Scan<char> {
    let Some(digits) = cursor.rest().get(..num_digits) else { return Err(cursor.more(None)) };
    let character = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
    cursor.advance(num_digits);
    character.ok_or(Stop::Malformed)
}
