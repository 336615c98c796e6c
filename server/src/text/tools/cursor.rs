//! Reading text that may be unfinished: what is there, what is wrong, and what has to be waited for.

use super::super::markers::{certain_len, first_of};

/// A place in text that more may follow.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    /// Nothing follows.
    is_end: bool,
}

/// Why nothing could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nothing is decided before this text has come, or any text.
    More(Option<&'static str>),
    /// This is no call.
    Malformed,
}

pub(super) type Scan<T> = Result<T, Stop>;

/// The longest name of a function or of an argument.
const MAX_NAME_BYTES: usize = 256;

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str, is_end: bool) -> Self {
        Self { text, at: 0, is_end }
    }

    /// Bytes read so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// To wait for `needle` or any text; at the end there is nothing to wait for.
    pub(super) fn more(&self, needle: Option<&'static str>) -> Stop {
        if self.is_end { Stop::Malformed } else { Stop::More(needle) }
    }

    pub(super) fn advance(&mut self, num_bytes: usize) {
        self.at += num_bytes;
    }

    pub(super) fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Whether `token` is next, which stays.
    pub(super) fn next_is(&mut self, token: &str) -> Scan<bool> {
        let start = self.at;
        let found = self.take(token);
        self.at = start;
        found
    }

    /// Takes `token` if it is next.
    pub(super) fn take(&mut self, token: &str) -> Scan<bool> {
        let rest = self.rest();
        if rest.starts_with(token) {
            self.at += token.len();
            return Ok(true);
        }
        if token.starts_with(rest) && !self.is_end { Err(Stop::More(None)) } else { Ok(false) }
    }

    /// Takes whichever of `tokens` is next.
    pub(super) fn take_any(&mut self, tokens: &[&'static str]) -> Scan<Option<&'static str>> {
        let mut may_come = None;
        for &token in tokens {
            match self.take(token) {
                Ok(true) => return Ok(Some(token)),
                Ok(false) => {}
                Err(stop) => may_come = Some(stop),
            }
        }
        may_come.map_or(Ok(None), Err)
    }

    /// Behind an element: whether a comma leads to more; else `close` is taken.
    pub(super) fn has_more(&mut self, close: &'static str) -> Scan<bool> {
        self.skip_space();
        match self.take_any(&[",", close])? {
            Some(",") => Ok(true),
            Some(_) => Ok(false),
            None => Err(Stop::Malformed),
        }
    }

    pub(super) fn expect(&mut self, token: &str) -> Scan<()> {
        if self.take(token)? { Ok(()) } else { Err(Stop::Malformed) }
    }

    /// Takes the end of a block. An answer that ends before it has left out nothing but this.
    pub(super) fn expect_or_end(&mut self, token: &str) -> Scan<()> {
        if self.is_end && token.starts_with(self.rest()) {
            self.at = self.text.len();
            return Ok(());
        }
        self.expect(token)
    }

    /// Takes white space, behind which nothing follows.
    pub(super) fn expect_end(&mut self) -> Scan<()> {
        self.skip_space();
        match self.rest() {
            "" if self.is_end => Ok(()),
            "" => Err(Stop::More(None)),
            _ => Err(Stop::Malformed),
        }
    }

    /// The text before `end`, which is taken too.
    pub(super) fn until(&mut self, end: &'static str) -> Scan<&'a str> {
        let Some(len) = self.rest().find(end) else { return Err(self.more(Some(end))) };
        let found = &self.rest()[..len];
        self.at += len + end.len();
        Ok(found)
    }

    /// The name of a function before `end`, which is taken too.
    pub(super) fn name_until(&mut self, end: &'static str) -> Scan<&'a str> {
        let name = self.name_before(&[end])?;
        self.expect(end)?;
        Ok(name)
    }

    /// The name of a function before any of `ends`, which stays.
    pub(super) fn name_before(&mut self, ends: &[&'static str]) -> Scan<&'a str> {
        let is_name =
            |name: &str| !name.contains(|c: char| c.is_whitespace() || "<>{}[]\"'".contains(c));
        self.short_before(ends, is_name)
    }

    /// The name of an argument before `end`, which is taken too.
    pub(super) fn key_until(&mut self, end: &'static str) -> Scan<&'a str> {
        let key = self.key_before(&[end])?;
        self.expect(end)?;
        Ok(key)
    }

    /// The name of an argument, or another short word, before any of `ends`, which stays.
    pub(super) fn key_before(&mut self, ends: &[&'static str]) -> Scan<&'a str> {
        self.short_before(ends, |key| !key.contains(['\n', '<', '>']))
    }

    /// A name with white space around: what is none is not waited for.
    fn short_before(
        &mut self,
        ends: &[&'static str],
        is_name: impl Fn(&str) -> bool,
    ) -> Scan<&'a str> {
        let rest = self.rest();
        let found = first_of(rest, ends);
        let name = rest[..found.map_or_else(|| certain_len(rest, ends), |(at, _)| at)].trim();
        if name.len() > MAX_NAME_BYTES || !is_name(name) {
            return Err(Stop::Malformed);
        }
        let Some((at, _)) = found else { return Err(self.more(None)) };
        if name.is_empty() {
            return Err(Stop::Malformed);
        }
        self.at += at;
        Ok(name)
    }

    /// The text before the first `close` that one of `followers` follows behind white space; `close` is taken too. So a
    /// value may hold the text that ends values.
    pub(super) fn value_until(
        &mut self,
        close: &'static str,
        followers: &[&'static str],
    ) -> Scan<&'a str> {
        let start = self.at;
        loop {
            self.until(close)?;
            let end = self.at;
            self.skip_space();
            let found = self.take_any(followers)?;
            self.at = end;
            if found.is_some() {
                return Ok(&self.text[start..end - close.len()]);
            }
        }
    }

    /// The rest of a JSON string behind its opening quote.
    pub(super) fn json_string(&mut self) -> Scan<String> {
        let mut is_escaped = false;
        let end = self.rest().bytes().position(|byte| {
            let is_end = byte == b'"' && !is_escaped;
            is_escaped = byte == b'\\' && !is_escaped;
            is_end
        });
        let Some(end) = end else { return Err(self.more(Some("\""))) };
        let quoted = format!("\"{}\"", &self.rest()[..end]);
        self.at += end + 1;
        serde_json::from_str(&quoted).map_err(|_| Stop::Malformed)
    }

    /// A JSON object or list, as far as brackets and strings tell.
    pub(super) fn json(&mut self) -> Scan<&'a str> {
        let bytes = self.rest().as_bytes();
        let close = match bytes.first() {
            None => return Err(self.more(None)),
            Some(b'{') => "}",
            Some(b'[') => "]",
            Some(_) => return Err(Stop::Malformed),
        };
        let (mut depth, mut in_string, mut is_escaped) = (0_u32, false, false);
        for (index, &byte) in bytes.iter().enumerate() {
            if in_string {
                match byte {
                    _ if is_escaped => is_escaped = false,
                    b'\\' => is_escaped = true,
                    b'"' => in_string = false,
                    0..0x20 => return Err(Stop::Malformed),
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        let found = &self.rest()[..=index];
                        self.at += index + 1;
                        return Ok(found);
                    }
                }
                b',' | b':' | b'+' | b'-' | b'.' => {}
                _ if byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() => {}
                _ => return Err(Stop::Malformed),
            }
        }
        Err(self.more(Some(close)))
    }
}
