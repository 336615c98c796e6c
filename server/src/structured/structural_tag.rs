//! Structural tags: text in which some strings begin parts of a fixed form. From xgrammar's JSON, old and new, to Lark.
//!
//! Source of the format: xgrammar's "Structural Tag Usage". What it has for single tokens is refused by name, and so is what would
//! have no end that can be found: text without limit before something else.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::grammar::{quoted, with_style};

/// Formats inside each other.
const MAX_DEPTH: usize = 32;

/// Any text, of terminals that end where they first can.
const TEXT: &str = "/(?s:.*)/";

/// Lark of `{"type": "structural_tag", "format": …}`, or with `structures` and `triggers`.
pub(super) fn to_lark(tag: &Value, is_compact: bool) -> Result<String, String> {
    let format = match tag.get("format") {
        Some(format) => format.clone(),
        None => of_old_form(tag)?,
    };
    let mut writer = Writer { rules: String::new(), num_rules: 0, depth: 0, is_compact };
    let start = writer.part(&format, Place::Last)?;
    Ok(format!("start: {start}\n{}", writer.rules))
}

/// `structures` of begin, schema and end, which `triggers` begin.
fn of_old_form(tag: &Value) -> Result<Value, String> {
    let missing = "has no format, nor structures and triggers";
    let triggers = tag.get("triggers").ok_or(missing)?;
    let structures = tag.get("structures").and_then(Value::as_array).ok_or(missing)?;
    let tags = structures.iter().map(|one| {
        let schema = one.get("schema").or_else(|| one.get("structural_tag_schema"));
        let content = json!({"type": "json_schema", "json_schema": schema});
        json!({"type": "tag", "begin": one["begin"], "content": content, "end": one["end"]})
    });
    let tags: Vec<Value> = tags.collect();
    Ok(json!({"type": "triggered_tags", "triggers": triggers, "tags": tags}))
}

/// What comes after a part.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// Nothing.
    Last,
    /// One of these, which the part brings along.
    Before(&'a [String]),
    /// Something else.
    Middle,
}

struct Writer {
    rules: String,
    num_rules: usize,
    depth: usize,
    is_compact: bool,
}

impl Writer {
    /// An expression of Lark.
    fn part(&mut self, format: &Value, place: Place<'_>) -> Result<String, String> {
        let fields = format.as_object().ok_or("has a format that is no object")?;
        let kind = text(fields, "type")?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("has more than {MAX_DEPTH} formats inside each other"));
        }
        let own = match kind {
            "any_text" => self.any_text(fields, place)?,
            "triggered_tags" => self.triggered_tags(fields, place)?,
            "sequence" => self.sequence(fields, place)?,
            "or" => {
                let parts = list(fields, "elements")?.iter().map(|part| self.part(part, place));
                one_of(&parts.collect::<Result<Vec<_>, _>>()?)
            }
            "tag" => self.tag(fields, text(fields, "begin")?, place)?,
            _ => {
                let limited = self.limited(kind, fields)?;
                self.rule(&format!("{limited}{}", end_of(place)))
            }
        };
        self.depth -= 1;
        Ok(own)
    }

    /// Formats whose end is their own matter.
    fn limited(&mut self, kind: &str, fields: &Map<String, Value>) -> Result<String, String> {
        match kind {
            "const_string" => Ok(literal(text(fields, "value")?)),
            "json_schema" => {
                known(fields, &["json_schema", "style", "any_order"])?;
                let is_json = fields.get("style").is_none_or(|style| style == "json");
                if !is_json || fields.get("any_order").is_some_and(|given| given == true) {
                    return Err(
                        "has a json_schema of another style or any_order: not supported".into()
                    );
                }
                let schema = fields
                    .get("json_schema")
                    .filter(|given| given.is_object() || given.is_boolean());
                let schema = schema.ok_or("has a json_schema that is no object")?;
                Ok(format!("%json {}", with_style(schema.clone(), self.is_compact)))
            }
            "regex" => {
                known(fields, &["pattern"])?;
                let pattern = text(fields, "pattern")?;
                super::grammar::check_nesting(pattern)?;
                Ok(format!("/(?:{})/", within_slashes(pattern)))
            }
            "optional" | "star" | "plus" => {
                let mark = match kind {
                    "optional" => "?",
                    "star" => "*",
                    _ => "+",
                };
                let content = fields.get("content").ok_or("has no content")?;
                Ok(format!("({}){mark}", self.part(content, Place::Middle)?))
            }
            "repeat" => {
                let count = |name| fields.get(name).and_then(Value::as_i64);
                let (least, most) = (count("min").unwrap_or(-1), count("max").unwrap_or(-2));
                if least < 0 || (most != -1 && most < least) || most > 1000 || least > 1000 {
                    return Err("has a repeat whose min and max are no range up to 1000".into());
                }
                let content = fields.get("content").ok_or("has no content")?;
                let most = if most < 0 { String::new() } else { most.to_string() };
                Ok(format!("({}){{{least},{most}}}", self.part(content, Place::Middle)?))
            }
            "tags_with_separator" => self.tags_with_separator(fields),
            other => Err(format!("has a format {other:?}, which is not supported")),
        }
    }

    fn sequence(
        &mut self,
        fields: &Map<String, Value>,
        place: Place<'_>,
    ) -> Result<String, String> {
        let elements = list(fields, "elements")?;
        let (last, before) = elements.split_last().ok_or("has a sequence of nothing")?;
        let parts = before.iter().map(|part| self.part(part, Place::Middle));
        let mut parts: Vec<String> = parts.collect::<Result<_, _>>()?;
        parts.push(self.part(last, place)?);
        Ok(self.rule(&parts.join(" ")))
    }

    /// `begin` may be what is left of it behind a trigger.
    fn tag(
        &mut self,
        fields: &Map<String, Value>,
        begin: &str,
        place: Place<'_>,
    ) -> Result<String, String> {
        known(fields, &["begin", "content", "end"])?;
        let content = fields.get("content").ok_or("has a tag without content")?;
        let ends = match fields.get("end") {
            Some(Value::String(end)) => vec![end.clone()],
            Some(Value::Array(_)) => texts(fields, "end")?,
            _ => return Err("has a tag whose end is neither a text nor a list of them".into()),
        };
        let begin = literal(begin);
        let own = match ends.iter().all(String::is_empty) {
            true => format!("{begin} {}", self.part(content, place)?),
            false if ends.iter().any(String::is_empty) => {
                return Err("has a tag with an empty end beside others".into());
            }
            false => {
                let content = self.part(content, Place::Before(&ends))?;
                format!("{begin} {content}{}", end_of(place))
            }
        };
        Ok(self.rule(&own))
    }

    fn any_text(
        &mut self,
        fields: &Map<String, Value>,
        place: Place<'_>,
    ) -> Result<String, String> {
        known(fields, &["excludes"])?;
        let excludes = texts(fields, "excludes")?;
        self.free(&excludes, &excludes, place)
    }

    /// Text without `never`, and at the end of all without `not_at_last`.
    fn free(
        &mut self,
        never: &[String],
        not_at_last: &[String],
        place: Place<'_>,
    ) -> Result<String, String> {
        match place {
            Place::Middle => {
                Err("has text without limit before something else: put it into a tag with an end"
                    .into())
            }
            Place::Before(ends) => Ok(self.lazy(never, ends)),
            Place::Last => {
                let name = self.next();
                let body = without("/(?s:.+)/", not_at_last);
                let _ = writeln!(self.rules, "T{name}: {body}");
                Ok(format!("T{name}?"))
            }
        }
    }

    /// Text without `never` up to the first of `ends`, which it takes.
    fn lazy(&mut self, never: &[String], ends: &[String]) -> String {
        let name = self.next();
        let (text, ends) = (without(TEXT, never), one_of(&literals(ends)));
        let _ = writeln!(self.rules, "T{name}: ({text}) {ends}\nl{name}[lazy]: T{name}");
        format!("l{name}")
    }

    fn triggered_tags(
        &mut self,
        fields: &Map<String, Value>,
        place: Place<'_>,
    ) -> Result<String, String> {
        known(fields, &["triggers", "tags", "at_least_one", "stop_after_first", "excludes"])?;
        let (triggers, excludes) = (texts(fields, "triggers")?, texts(fields, "excludes")?);
        let (at_least_one, only_one) =
            (flag(fields, "at_least_one")?, flag(fields, "stop_after_first")?);
        let marks: Vec<String> = match place {
            Place::Before(ends) => [&triggers[..], ends].concat(),
            _ => triggers.clone(),
        };
        check_apart(&marks)?;
        let mut behind: Vec<Vec<String>> = vec![Vec::new(); triggers.len()];
        let mut whole = Vec::new();
        for tag in list(fields, "tags")? {
            let fields = tag.as_object().ok_or("has a tag that is no object")?;
            let begin = text(fields, "begin")?;
            let found = triggers.iter().position(|trigger| begin.starts_with(trigger.as_str()));
            let index =
                found.ok_or_else(|| format!("has a tag {begin:?} that no trigger begins"))?;
            behind[index].push(self.tag(fields, &begin[triggers[index].len()..], Place::Middle)?);
            if at_least_one {
                whole.push(self.tag(fields, begin, Place::Middle)?);
            }
        }
        if let Some(index) = behind.iter().position(Vec::is_empty) {
            return Err(format!("has a trigger {:?} that begins no tag", triggers[index]));
        }
        let mut ways = Vec::new();
        for (trigger, behind) in triggers.iter().zip(&behind) {
            let text = self.lazy(&excludes, std::slice::from_ref(trigger));
            ways.push(format!("{text} {}", one_of(behind)));
        }
        let (tags, end) = (one_of(&ways), end_of(place));
        let own = if at_least_one && only_one {
            format!("{}{end}", one_of(&whole))
        } else {
            let no_more = [&triggers[..], &excludes].concat();
            let rest = self.free(&excludes, &no_more, place)?;
            match (at_least_one, only_one) {
                (true, _) => format!("{} {tags}* {rest}", one_of(&whole)),
                (false, true) => format!("({tags}{end} | {rest})"),
                (false, false) => format!("{tags}* {rest}"),
            }
        };
        Ok(self.rule(&own))
    }

    fn tags_with_separator(&mut self, fields: &Map<String, Value>) -> Result<String, String> {
        known(fields, &["tags", "separator", "at_least_one", "stop_after_first"])?;
        let mut tags = Vec::new();
        for tag in list(fields, "tags")? {
            let fields = tag.as_object().ok_or("has a tag that is no object")?;
            tags.push(self.tag(fields, text(fields, "begin")?, Place::Middle)?);
        }
        let (tags, separator) = (one_of(&tags), literal(text(fields, "separator")?));
        let some = match flag(fields, "stop_after_first")? {
            true => tags,
            false => format!("{tags} ({separator} {tags})*"),
        };
        Ok(if flag(fields, "at_least_one")? { some } else { format!("({some})?") })
    }

    fn next(&mut self) -> usize {
        self.num_rules += 1;
        self.num_rules
    }

    /// A rule of its own, so that nothing around it matters.
    fn rule(&mut self, body: &str) -> String {
        let name = self.next();
        let _ = writeln!(self.rules, "r{name}: {body}");
        format!("r{name}")
    }
}

fn end_of(place: Place<'_>) -> String {
    match place {
        Place::Before(ends) => format!(" {}", one_of(&literals(ends))),
        Place::Last | Place::Middle => String::new(),
    }
}

/// A regular expression as Lark writes it.
fn within_slashes(pattern: &str) -> String {
    let (mut written, mut is_escaped) = (String::new(), false);
    for character in pattern.chars() {
        match character {
            '/' if !is_escaped => written.push_str("\\/"),
            _ => written.push(character),
        }
        is_escaped = character == '\\' && !is_escaped;
    }
    written
}

/// A text in Lark; nothing for an empty one, which is no terminal.
fn literal(text: &str) -> String {
    if text.is_empty() { String::new() } else { quoted(text) }
}

fn literals(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| quoted(text)).collect()
}

fn one_of(parts: &[String]) -> String {
    format!("({})", parts.join(" | "))
}

/// `text`, and nowhere in it one of `never`.
fn without(text: &str, never: &[String]) -> String {
    match never {
        [] => text.to_owned(),
        _ => format!("{text} & ~({TEXT} {} {TEXT})", one_of(&literals(never))),
    }
}

/// None within another, or it would not be clear which was meant.
fn check_apart(marks: &[String]) -> Result<(), String> {
    for (index, one) in marks.iter().enumerate() {
        let others = marks.iter().enumerate().filter(|&(other, _)| other != index);
        if one.is_empty() || others.into_iter().any(|(_, other)| other.contains(one.as_str())) {
            return Err(format!("has a trigger or end {one:?} that is empty or within another"));
        }
    }
    match marks {
        [] => Err("has no triggers".into()),
        _ => Ok(()),
    }
}

fn known(fields: &Map<String, Value>, names: &[&str]) -> Result<(), String> {
    let given = fields.iter().filter(|(_, value)| !value.is_null());
    match given.map(|(name, _)| name.as_str()).find(|name| *name != "type" && !names.contains(name))
    {
        Some(name) => {
            Err(format!("has a {:?} that is not supported", crate::error::shortened(name)))
        }
        None => Ok(()),
    }
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    let given = fields.get(name).and_then(Value::as_str);
    given.ok_or_else(|| format!("has a format without {name}, a text"))
}

fn list<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], String> {
    let given = fields.get(name).and_then(Value::as_array).filter(|list| !list.is_empty());
    given.map(Vec::as_slice).ok_or_else(|| format!("has a format without {name}, a list"))
}

/// Empty if it is not there.
fn texts(fields: &Map<String, Value>, name: &str) -> Result<Vec<String>, String> {
    let Some(given) = fields.get(name).filter(|given| !given.is_null()) else {
        return Ok(Vec::new());
    };
    let texts: Option<Vec<String>> = given
        .as_array()
        .and_then(|list| list.iter().map(|text| text.as_str().map(str::to_owned)).collect());
    texts.ok_or_else(|| format!("has {name} that are no list of texts"))
}

fn flag(fields: &Map<String, Value>, name: &str) -> Result<bool, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(given)) => Ok(*given),
        Some(_) => Err(format!("has {name} that is neither true nor false")),
    }
}
