//! What a chat template may cost, and the check of its source before any parser sees it.

use super::TemplateError;

/// Bounds on loading and rendering. A template comes with a model file, which may be hostile.
///
/// One thing has no bound: the memory of texts that a template makes and does not print. A loop of `{% set ns.x = ns.x ~ ns.x %}`
/// doubles a text in about eight instructions, and minijinja (3.0.5) lets nobody see a value where `~`, `+`, `{% set %}` with a
/// body, a slice or a filter makes it: fuel counts instructions, and its formatter sees what is printed. So a hostile model file
/// can take memory until the system ends the process, as one of too many weights could; a limit of the service's memory
/// (`MemoryMax`, a container's) holds it, and clients reach none of it, since templates of requests are refused.
#[derive(Clone, Copy, Debug)]
pub struct TemplateLimits {
    /// Length of the source.
    pub max_source_bytes: usize,
    /// Length of one `{{ }}` or `{% %}` tag: bounds the depth of an expression.
    pub max_tag_bytes: usize,
    /// Number of tags: bounds the depth of blocks.
    pub max_tags: usize,
    /// Brackets open at once in a tag.
    pub max_nesting: usize,
    /// Instructions of one rendering.
    pub max_fuel: u64,
    /// Depth of macro calls and includes.
    pub max_recursion: usize,
    /// Length of the rendered prompt.
    pub max_output_bytes: usize,
    /// Stack of the thread that parses and renders; only what is touched takes memory. A template
    /// can nest values about `max_fuel / 8` deep, and dropping or printing them recurses.
    pub stack_bytes: usize,
}

impl Default for TemplateLimits {
    fn default() -> Self {
        Self {
            max_source_bytes: 1 << 20,
            max_tag_bytes: 32 << 10,
            max_tags: 8192,
            max_nesting: 64,
            max_fuel: 1_000_000,
            max_recursion: 200,
            max_output_bytes: 16 << 20,
            stack_bytes: 256 << 20,
        }
    }
}

/// Refuses sources on which a recursive parser could run out of stack.
pub(super) fn check_source(source: &str, limits: &TemplateLimits) -> Result<(), TemplateError> {
    check("max_source_bytes", source.len(), limits.max_source_bytes)?;
    let mut rest = source;
    let mut num_tags = 0;
    while let Some(start) = next_tag(rest) {
        let is_comment = rest[start..].starts_with("{#");
        rest = &rest[start + 2..];
        if is_comment {
            rest = rest.find("#}").map_or("", |end| &rest[end + 2..]);
            continue;
        }
        num_tags += 1;
        check("max_tags", num_tags, limits.max_tags)?;
        let inside = &rest[..check_tag(rest, limits)?];
        rest = &rest[inside.len()..];
        if inside.trim_matches(TRIM_MARKS).trim() == "raw" {
            rest = after_raw(rest);
        }
    }
    Ok(())
}

const TRIM_MARKS: [char; 2] = ['-', '+'];

/// What follows the `endraw` tag; the text before it holds no tags.
fn after_raw(text: &str) -> &str {
    let tags = text.match_indices("{%").map(|(at, _)| &text[at + 2..]);
    let mut ends =
        tags.filter(|tag| tag.trim_start_matches(TRIM_MARKS).trim_start().starts_with("endraw"));
    ends.next().unwrap_or("")
}

fn next_tag(text: &str) -> Option<usize> {
    let braces = text.match_indices('{').map(|(at, _)| at);
    let mut tags =
        braces.filter(|at| matches!(text.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#')));
    tags.next()
}

/// Checks the tag whose inside `text` begins with, and gives its length.
fn check_tag(text: &str, limits: &TemplateLimits) -> Result<usize, TemplateError> {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    let mut quote = None;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        match (quote, byte) {
            (Some(_), b'\\') => at += 1,
            (Some(open), _) if byte == open => quote = None,
            (None, b'\'' | b'"') => quote = Some(byte),
            (None, b'(' | b'[' | b'{') => depth += 1,
            (None, b'%') if bytes.get(at + 1) == Some(&b'}') => break,
            (None, b'}') if depth == 0 => break,
            (None, b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        check("max_nesting", depth, limits.max_nesting)?;
        at += 1;
    }
    let num_bytes = at.min(bytes.len());
    check("max_tag_bytes", num_bytes, limits.max_tag_bytes)?;
    Ok(num_bytes)
}

fn check(limit: &'static str, found: usize, allowed: usize) -> Result<(), TemplateError> {
    if found <= allowed {
        Ok(())
    } else {
        Err(TemplateError::SourceLimit { limit, found, allowed })
    }
}
