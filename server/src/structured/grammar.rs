//! From what was asked to one grammar of llguidance, whatever its kind.

use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

use super::{Kind, StructuredOutput, gbnf, structural_tag};

/// Between the parts of JSON: bounded, or a small model might write white space for ever.
const WHITE_SPACE: &str = r"[ \n\t]{1,20}";

/// Brackets of a grammar or regular expression inside others.
const MAX_NESTING: usize = 100;

/// An error says what is wrong with it.
pub(super) fn of(asked: &StructuredOutput) -> Result<TopLevelGrammar, String> {
    match &asked.kind {
        Kind::JsonObject => Ok(json_grammar(json!({"type": "object"}), asked.is_compact)),
        Kind::Json(schema) => Ok(json_grammar(schema.clone(), asked.is_compact)),
        Kind::StructuralTag(tag) => {
            Ok(TopLevelGrammar::from_lark(structural_tag::to_lark(tag, asked.is_compact)?))
        }
        Kind::Regex(regex) => {
            check_nesting(regex)?;
            Ok(TopLevelGrammar::from_regex(regex))
        }
        Kind::Choice(choices) => {
            let texts: Vec<String> = choices.iter().map(|choice| quoted(choice)).collect();
            let lark = format!("start: CHOICE\nCHOICE: {}\n", texts.join(" | "));
            Ok(TopLevelGrammar::from_lark(lark))
        }
        Kind::Grammar(text) => {
            check_nesting(text)?;
            let lark = if gbnf::is_gbnf(text) { gbnf::to_lark(text)? } else { text.clone() };
            Ok(TopLevelGrammar::from_lark(lark))
        }
    }
}

fn json_grammar(schema: Value, is_compact: bool) -> TopLevelGrammar {
    TopLevelGrammar::from_json_schema(with_style(schema, is_compact))
}

/// Says how JSON is written, in the place of what a client says of that.
pub(super) fn with_style(mut schema: Value, is_compact: bool) -> Value {
    let options = match is_compact {
        true => json!({"whitespace_flexible": false}),
        false => json!({"whitespace_pattern": WHITE_SPACE}),
    };
    match &mut schema {
        Value::Object(keys) => drop(keys.insert("x-guidance".into(), options)),
        other => schema = json!({"allOf": [other.take()], "x-guidance": options}),
    }
    schema
}

/// A text as Lark writes it.
pub(super) fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// What parses it may recurse.
pub(super) fn check_nesting(text: &str) -> Result<(), String> {
    let mut depth = 0_usize;
    for character in text.chars() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING {
            return Err(format!("has more than {MAX_NESTING} brackets inside each other"));
        }
    }
    Ok(())
}
