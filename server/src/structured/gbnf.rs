//! Grammars as llama.cpp and xgrammar write them (`root ::= …`), as Lark.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Whether a grammar is written so.
pub(super) fn is_gbnf(text: &str) -> bool {
    text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains("::="))
}

/// The grammar in Lark. Its rules get new names; `root` is the start. Nested as deep as its brackets, which are few.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let mut converter = Converter {
        rest: text.chars().collect(),
        at: 0,
        names: BTreeMap::new(),
        lark: String::new(),
    };
    converter.rules()?;
    let Converter { names, lark, .. } = converter;
    match names.iter().find(|(_, rule)| !rule.is_defined) {
        Some((name, _)) => Err(format!("has no rule {name:?}")),
        None if !names.contains_key("root") => Err("has no rule \"root\"".into()),
        None => Ok(format!("start: r{}\n{lark}", names["root"].number)),
    }
}

struct Rule {
    number: usize,
    is_defined: bool,
}

struct Converter {
    rest: Vec<char>,
    at: usize,
    names: BTreeMap<String, Rule>,
    lark: String,
}

impl Converter {
    fn rules(&mut self) -> Result<(), String> {
        loop {
            self.skip_space(true);
            if self.peek().is_none() {
                return Ok(());
            }
            let name = self.name()?;
            let rule = self.rule(name.clone());
            if std::mem::replace(&mut rule.is_defined, true) {
                return Err(format!("has two rules {name:?}"));
            }
            let number = rule.number;
            self.skip_space(true);
            if !self.take("::=") {
                return Err(format!("has no ::= behind {name:?}"));
            }
            let _ = write!(self.lark, "r{number}: ");
            self.alternatives(false)?;
            self.lark.push('\n');
        }
    }

    fn rule(&mut self, name: String) -> &mut Rule {
        let number = self.names.len();
        self.names.entry(name).or_insert(Rule { number, is_defined: false })
    }

    /// Up to the end of the rule, or of the group.
    fn alternatives(&mut self, in_group: bool) -> Result<(), String> {
        loop {
            self.sequence(in_group)?;
            if !self.take("|") {
                return Ok(());
            }
            self.lark.push_str(" | ");
        }
    }

    fn sequence(&mut self, in_group: bool) -> Result<(), String> {
        let mut is_empty = true;
        loop {
            // A rule goes on in the next line within a group, or behind a bar.
            self.skip_space(in_group || is_empty);
            match self.peek() {
                Some('"') => {
                    let text = self.literal()?;
                    let quoted = serde_json::Value::from(text).to_string();
                    self.lark.push_str(&quoted.replace('\u{7f}', "\\u007f"));
                }
                Some('[') => self.class()?,
                Some('.') => {
                    self.at += 1;
                    self.lark.push_str(r"/[^\n]/");
                }
                Some('(') => {
                    self.at += 1;
                    self.lark.push('(');
                    self.alternatives(true)?;
                    self.skip_space(true);
                    if !self.take(")") {
                        return Err("has a bracket that does not close".into());
                    }
                    self.lark.push(')');
                }
                Some(first) if is_name(first) && !self.begins_rule() => {
                    let name = self.name()?;
                    let number = self.rule(name).number;
                    let _ = write!(self.lark, "r{number}");
                }
                _ => {
                    if is_empty {
                        self.lark.push_str("\"\"");
                    }
                    return Ok(());
                }
            }
            self.repetition()?;
            self.lark.push(' ');
            is_empty = false;
        }
    }

    fn repetition(&mut self) -> Result<(), String> {
        if let Some(sign @ ('*' | '+' | '?')) = self.peek() {
            self.at += 1;
            self.lark.push(sign);
        } else if self.take("{") {
            let end = self.rest[self.at..].iter().position(|&c| c == '}');
            let end = self.at + end.ok_or("has a { that does not close")?;
            let counts: String = self.rest[self.at..end].iter().filter(|c| **c != ' ').collect();
            let (least, most) =
                counts.split_once(',').unwrap_or((counts.as_str(), counts.as_str()));
            let is_count = |text: &str| text.parse::<u32>().is_ok();
            if !is_count(least) || !(most.is_empty() || is_count(most)) {
                return Err(format!("has no counts in {{{counts}}}"));
            }
            let _ = write!(self.lark, "{{{least},{most}}}");
            self.at = end + 1;
        }
        Ok(())
    }

    fn literal(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.next()? {
                '"' => return Ok(text),
                '\\' => text.push(self.escaped()?),
                character => text.push(character),
            }
        }
    }

    /// `[a-z]` as a regular expression, each character by its number.
    fn class(&mut self) -> Result<(), String> {
        self.at += 1;
        self.lark.push_str("/[");
        if self.take("^") {
            self.lark.push('^');
        }
        loop {
            match self.next()? {
                ']' => break,
                '-' => self.lark.push_str(r"\-"),
                first => {
                    let first = if first == '\\' { self.escaped()? } else { first };
                    let _ = write!(self.lark, r"\x{{{:x}}}", u32::from(first));
                    let is_range = self.peek() == Some('-')
                        && self.rest.get(self.at + 1).is_some_and(|&next| next != ']');
                    if is_range {
                        self.at += 1;
                        let last = self.next()?;
                        let last = if last == '\\' { self.escaped()? } else { last };
                        let _ = write!(self.lark, r"-\x{{{:x}}}", u32::from(last));
                    }
                }
            }
        }
        self.lark.push_str("]/");
        Ok(())
    }

    fn escaped(&mut self) -> Result<char, String> {
        let num_digits = match self.next()? {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            other => return Ok(other),
        };
        let digits: String = (0..num_digits).map(|_| self.next()).collect::<Result<_, _>>()?;
        let number = u32::from_str_radix(&digits, 16).ok();
        number.and_then(char::from_u32).ok_or(format!("has no character of number {digits:?}"))
    }

    fn name(&mut self) -> Result<String, String> {
        let name: String =
            self.rest[self.at..].iter().copied().take_while(|&c| is_name(c)).collect();
        if name.is_empty() {
            let found: String = self.rest[self.at..].iter().take(10).collect();
            return Err(format!("has {found:?} where a rule begins"));
        }
        self.at += name.chars().count();
        Ok(name)
    }

    /// Whether what comes is the name of the next rule.
    fn begins_rule(&mut self) -> bool {
        let before = self.at;
        while self.peek().is_some_and(is_name) {
            self.at += 1;
        }
        self.skip_space(true);
        let begins = self.take("::=");
        self.at = before;
        begins
    }

    fn skip_space(&mut self, over_lines: bool) {
        while let Some(character) = self.peek() {
            match character {
                '#' => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.at += 1;
                    }
                }
                '\n' | '\r' if !over_lines => return,
                _ if character.is_whitespace() => self.at += 1,
                _ => return,
            }
        }
    }

    fn take(&mut self, text: &str) -> bool {
        let is_here = text.chars().enumerate().all(|(i, c)| self.rest.get(self.at + i) == Some(&c));
        self.at += if is_here { text.chars().count() } else { 0 };
        is_here
    }

    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Result<char, String> {
        let next = self.peek().ok_or("ends too early")?;
        self.at += 1;
        Ok(next)
    }
}

fn is_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_its_lark() {
        let gbnf = "# a list\nroot ::= \"<\" (item \",\")* last? \">\" # end\n\
            item ::= [a-z0-9_]+ |\n  \"\\n\\x41\\u00e9\\\"\" | [^\\]\\-]{2,3} .{2} x-y{1,}\n\
            last ::= \nx-y::=\"x\"\n";
        assert!(is_gbnf(gbnf));
        let expected = "start: r0\n\
            r0: \"<\" (r1 \",\" )* r2? \">\" \n\
            r1: /[\\x{61}-\\x{7a}\\x{30}-\\x{39}\\x{5f}]/+  | \"\\nAé\\\"\"  | \
            /[^\\x{5d}\\x{2d}]/{2,3} /[^\\n]/{2,2} r3{1,} \n\
            r2: \"\"\nr3: \"x\" \n";
        assert_eq!(to_lark(gbnf).as_deref(), Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (gbnf, what) in [
            ("a ::= \"x\"", "\"root\""),
            ("root ::= b", "\"b\""),
            ("root ::= (\"a\"", "bracket"),
            ("root ::= \"a", "early"),
            ("root ::= [a", "early"),
            ("root ::= \"a\"{x}", "counts"),
            ("root ::= \"a\"{2", "{"),
            ("root ::= \"\\ud800\"", "d800"),
            ("root ::= \"a\" root ::= \"b\"", "two rules"),
            ("root \"a\"", "::="),
            ("root ::= $", "\"$\""),
        ] {
            let error = to_lark(gbnf).unwrap_err();
            assert!(error.contains(what), "{gbnf}: {error}");
        }
    }
}
