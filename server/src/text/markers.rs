//! Looking for markers in text whose end is still to come.

/// The first place of any of `markers` in `text`, and which one it is: of those that begin together, the longest.
pub(super) fn first_of(text: &str, markers: &[&'static str]) -> Option<(usize, &'static str)> {
    let places = markers.iter().filter_map(|marker| Some((text.find(marker)?, *marker)));
    places.min_by_key(|&(at, marker)| (at, usize::MAX - marker.len()))
}

/// How many bytes of `text` no marker can begin in, whatever follows.
pub(super) fn certain_len(text: &str, markers: &[&'static str]) -> usize {
    let longest = markers.iter().map(|marker| marker.len()).max().unwrap_or(0);
    let from = text.len().saturating_sub(longest.saturating_sub(1));
    let begins =
        |&at: &usize| markers.iter().any(|marker| is_begun(marker, &text.as_bytes()[at..]));
    (from..text.len()).find(begins).unwrap_or(text.len())
}

/// The last place up to byte `at` where a character begins.
pub(super) fn char_floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

fn is_begun(marker: &str, end: &[u8]) -> bool {
    marker.len() > end.len() && marker.as_bytes().starts_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_longest_marker_is_found() {
        let markers = ["<a>", "<a><b>", "</a>"];
        assert_eq!(first_of("x</a><a><b>", &markers), Some((1, "</a>")));
        assert_eq!(first_of("x<a><b>", &markers), Some((1, "<a><b>")));
        assert_eq!(first_of("x<b>", &markers), None);
    }

    #[test]
    fn what_may_begin_a_marker_is_held() {
        let markers = ["<tool>", "<töl>"];
        for (text, held) in
            [("ab", 0), ("ab<", 1), ("ab<too", 4), ("a<b", 0), ("<t<t", 2), ("é<t", 2)]
        {
            assert_eq!(text.len() - certain_len(text, &markers), held, "{text}");
        }
        // A whole marker is for `first_of`.
        assert_eq!(certain_len("<tool>", &markers), 6);
    }
}
