//! Which rendered text came from a client, so that it cannot hold control tokens.
//!
//! Templates cut, trim, search and join what they are given, so the origin of a character cannot
//! be followed through them. Instead a *mark*, a noncharacter found in neither template nor data,
//! is put into the client's strings, and where it comes out no control token may span. Marks are
//! then removed and the text is tokenized as one: only control tokens see them.
//!
//! *Strong* marks go to both sides of each character that can begin or end a control token: no
//! such token can then use a client's character at its ends, whatever the template does (only one
//! whose ends the template wrote can, as where it makes `<|user|>` of a role). They
//! hide texts such as `</think>` from the template's own tests. *Weak* marks break only the
//! control tokens that a string holds as a whole, and change nothing in ordinary strings.

use serde_json::{Map, Value};

use crate::text::tokenizer::ControlTexts;

/// The noncharacters that may become marks.
const CANDIDATES: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// Characters that occur in neither the template nor the data.
#[derive(Clone, Copy)]
pub(super) struct Marks {
    /// No control token spans this.
    pub(super) origin: char,
    /// The end of the message that the model is to continue.
    pub(super) end: char,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Strength {
    Weak,
    Strong,
}

impl Marks {
    /// `None` if the data use up all candidates.
    pub(super) fn choose<'a>(source: &str, data: impl Iterator<Item = &'a Value>) -> Option<Self> {
        let mut used = source.chars().filter(|c| CANDIDATES.contains(c)).collect::<Vec<_>>();
        for value in data {
            visit(value, &mut |text| used.extend(text.chars().filter(|c| CANDIDATES.contains(c))));
        }
        let mut free = CANDIDATES.filter(|candidate| !used.contains(candidate));
        Some(Self { origin: free.next()?, end: free.next()? })
    }
}

/// Whether any of the client's strings could take part in a control token.
pub(super) fn needs_marks<'a>(
    data: impl Iterator<Item = &'a Value>,
    control: &ControlTexts,
) -> bool {
    let mut found = false;
    for value in data {
        visit(value, &mut |text| found |= text.chars().any(|c| control.is_edge(c)));
        visit(value, &mut |text| found |= !control.find(text, &[]).is_empty());
    }
    found
}

/// Whether one of the client's strings holds a control token's text.
pub(super) fn holds_control_text<'a>(
    data: impl Iterator<Item = &'a Value>,
    control: &ControlTexts,
) -> bool {
    let mut found = false;
    for value in data {
        visit(value, &mut |text| found |= !control.find(text, &[]).is_empty());
    }
    found
}

/// A copy of `value` with marks in its strings.
pub(super) fn mark(value: &Value, control: &ControlTexts, mark: char, strength: Strength) -> Value {
    let again = |value| self::mark(value, control, mark, strength);
    match value {
        Value::String(text) => Value::String(mark_text(text, control, mark, strength)),
        Value::Array(items) => Value::Array(items.iter().map(again).collect()),
        Value::Object(entries) => {
            let marked = entries
                .iter()
                .map(|(key, value)| (mark_text(key, control, mark, strength), again(value)));
            Value::Object(marked.collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

/// Removes the marks; gives the text and the byte offsets where they were.
pub(super) fn unmark(text: &str, mark: char) -> (String, Vec<usize>) {
    let mut plain = String::with_capacity(text.len());
    let mut barriers: Vec<usize> = Vec::new();
    for (index, piece) in text.split(mark).enumerate() {
        if index > 0 && barriers.last() != Some(&plain.len()) {
            barriers.push(plain.len());
        }
        plain.push_str(piece);
    }
    (plain, barriers)
}

fn mark_text(text: &str, control: &ControlTexts, mark: char, strength: Strength) -> String {
    // Roles, keys and the like name things of the template.
    let is_name =
        text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    let mut places = Vec::new();
    for (range, _) in control.find(text, &[]) {
        places.extend(text[range.clone()].chars().next().map(|c| range.start + c.len_utf8()));
    }
    if strength == Strength::Strong && !is_name {
        for (at, character) in text.char_indices().filter(|&(_, c)| control.is_edge(c)) {
            places.extend([at, at + character.len_utf8()]);
        }
    }
    places.sort_unstable();
    places.dedup();
    let mut marked = String::with_capacity(text.len() + places.len() * mark.len_utf8());
    let mut cursor = 0;
    for place in places {
        marked.push_str(&text[cursor..place]);
        marked.push(mark);
        cursor = place;
    }
    marked.push_str(&text[cursor..]);
    marked
}

fn visit(value: &Value, see: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(items) => items.iter().for_each(|item| visit(item, see)),
        Value::Object(entries) => entries.iter().for_each(|(key, value)| {
            see(key);
            visit(value, see);
        }),
        _ => {}
    }
}
