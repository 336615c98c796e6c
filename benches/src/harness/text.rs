//! Text of servers made harmless: for a terminal, and for a page.

use std::fmt::Write as _;

/// Without control characters and marks that turn the direction of text; each is shown as its code.
pub fn for_terminal(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => shown.push(' '),
            c if c.is_control() || is_hidden(c) => {
                let _ = write!(shown, "\\u{{{:x}}}", c as u32);
            }
            c => shown.push(c),
        }
    }
    shown
}

/// For an element or a quoted attribute of HTML.
pub fn for_html(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in for_terminal(text).chars() {
        match character {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '"' => shown.push_str("&quot;"),
            '\'' => shown.push_str("&#39;"),
            c => shown.push(c),
        }
    }
    shown
}

/// Marks without width, and those that change the direction of what follows.
fn is_hidden(character: char) -> bool {
    matches!(character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_only_text() {
        let text = "\u{1b}[2J\u{7}<script>alert('&\"')</script>\r\n\u{202e}x\u{9b}";
        let shown = for_terminal(text);
        assert!(!shown.chars().any(|c| c.is_control() || is_hidden(c)), "{shown:?}");
        assert!(shown.starts_with("\\u{1b}[2J"));
        let page = for_html(text);
        assert!(!page.contains(['<', '>', '"', '\'']), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;&amp;&quot;&#39;)&lt;/script&gt;"));
    }
}
