//! The source tree as text, and Rust text without its comments and literals.

use std::collections::BTreeMap;
use std::path::Path;

/// Folders that are no source, from the root. By their names alone `engine/src/models` would be one of them.
const SKIPPED: &[&str] = &["target", "models", "kernels/toolchain", "tests/data"];

/// Paths relative to the repository's root, with their text.
pub(crate) struct Tree {
    pub(crate) files: BTreeMap<String, String>,
}

/// A function: its name and the lines of code between its braces.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) num_lines: usize,
}

impl Tree {
    /// The repository: `.rs`, `.cu`, `.cuh`, `.toml` and `.md` files.
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lies in the root");
        let mut tree = Self { files: BTreeMap::new() };
        tree.add_folder(root, "");
        for file in ["Cargo.toml", "engine/src/models/decoder.rs", "kernels/src/linear/mod.rs"] {
            assert!(tree.files.contains_key(file), "{file} was not read");
        }
        tree
    }

    /// A tree of planted files.
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let own = files.iter().map(|&(path, text)| (path.to_owned(), text.to_owned()));
        Self { files: own.collect() }
    }

    pub(crate) fn get(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    pub(crate) fn with_ending<'a>(
        &'a self,
        ending: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let fits = move |(path, _): &(&String, &String)| path.ends_with(ending);
        self.files.iter().filter(fits).map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The names of the folders directly below `folder` (`""`: the root), each once.
    pub(crate) fn folders_in(&self, folder: &str) -> Vec<&str> {
        let below = self.files.keys().filter_map(|path| path.strip_prefix(folder));
        let mut names: Vec<&str> = below.filter_map(|rest| Some(rest.split_once('/')?.0)).collect();
        names.dedup();
        names
    }

    fn add_folder(&mut self, folder: &Path, prefix: &str) {
        for entry in std::fs::read_dir(folder).expect("the tree can be read").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let (path, relative) = (entry.path(), format!("{prefix}{name}"));
            if path.is_dir() {
                if !name.starts_with('.') && !SKIPPED.contains(&relative.as_str()) {
                    self.add_folder(&path, &format!("{relative}/"));
                }
            } else if is_source(&path) {
                let text = std::fs::read_to_string(&path).expect("source files are UTF-8");
                self.files.insert(relative, text);
            }
        }
    }
}

fn is_source(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    ["rs", "cu", "cuh", "toml", "md"].contains(&&*ending)
}

/// The text with comments and literals blanked out; lines stay where they are.
pub(crate) fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let before = code.chars().next_back().unwrap_or(' ');
        let end = literal_end(&chars, at, before);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// The end of the comment or literal that begins at `at`; `at` itself when none does.
fn literal_end(chars: &[char], at: usize, before: char) -> usize {
    let next = |ahead: usize| chars.get(at + ahead).copied().unwrap_or('\0');
    let starts_word = !(before.is_alphanumeric() || before == '_');
    match (chars[at], next(1)) {
        ('/', '/') => find(chars, at, |c, _| c == '\n'),
        ('/', '*') => block_comment_end(chars, at),
        ('"', _) => string_end(chars, at + 1),
        ('b' | 'c', '"') if starts_word => string_end(chars, at + 2),
        ('r', '"' | '#') if starts_word => raw_string_end(chars, at, at + 1),
        ('b' | 'c', 'r') if starts_word && matches!(next(2), '"' | '#') => {
            raw_string_end(chars, at, at + 2)
        }
        ('\'', '\\') => find(chars, at + 3, |c, _| c == '\'') + 1,
        // Three characters make a literal; anything else is a lifetime.
        ('\'', _) if next(2) == '\'' => at + 3,
        _ => at,
    }
    .min(chars.len())
}

fn find(chars: &[char], from: usize, matches: impl Fn(char, usize) -> bool) -> usize {
    (from..chars.len()).find(|&i| matches(chars[i], i)).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// `from` is where the number signs or the quote begin. A raw identifier is no string.
fn raw_string_end(chars: &[char], at: usize, from: usize) -> usize {
    let quote = find(chars, from, |c, _| c != '#');
    if chars.get(quote) != Some(&'"') {
        return at;
    }
    let num_signs = quote - from;
    let closes = |c: char, i: usize| {
        c == '"' && chars[i + 1..].iter().take_while(|&&c| c == '#').count() >= num_signs
    };
    find(chars, quote + 1, closes) + 1 + num_signs
}

/// Whether `word` stands in `code` by itself.
pub(crate) fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(word).any(|(at, _)| {
        !is_part(code[..at].chars().next_back()) && !is_part(code[at + word.len()..].chars().next())
    })
}

/// The functions of Rust text, nested ones too.
pub(crate) fn functions(text: &str) -> Vec<Function> {
    let code = code_only(text);
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_') {
            continue;
        }
        let name: String =
            code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let Some(open) = body_start(bytes, at).filter(|_| !name.is_empty()) else { continue };
        let close = matching_brace(bytes, open);
        let body = &code[open + 1..close];
        let num_lines = body.lines().filter(|line| !line.trim().is_empty()).count();
        let line = code[..at].matches('\n').count() + 1;
        found.push(Function { name, line, num_lines });
    }
    found
}

/// The brace that opens the body; `None` of a declaration and of a function pointer's type.
fn body_start(bytes: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0;
    for (i, byte) in bytes.iter().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b'{' if depth == 0 => return Some(i),
            b')' | b']' | b';' | b'}' if depth == 0 => return None,
            b')' | b']' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn matching_brace(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0;
    for (i, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    bytes.len()
}
