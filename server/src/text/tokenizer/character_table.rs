//! SentencePiece's `precompiled_charsmap`: a trie of byte strings (Darts, a double array) and what replaces each.

/// The table; sizes are checked, places are checked when they are read.
pub(super) struct CharacterTable {
    units: Vec<u32>,
    /// Texts, each ended by a 0.
    replacements: Vec<u8>,
}

impl CharacterTable {
    /// `None`: the bytes are no such table. They are the length of the trie in bytes, the trie, and the replacements.
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let (trie, replacements) = rest.split_at_checked(length)?;
        let (units, rest) = trie.as_chunks::<4>();
        if units.is_empty() || !rest.is_empty() {
            return None;
        }
        let units = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
        Some(Self { units, replacements: replacements.to_vec() })
    }

    /// Each longest known string is replaced; other characters stay.
    pub(super) fn normalise(&self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (length, replacement) = self
                .longest_match(rest)
                .unwrap_or_else(|| (first.len_utf8(), &rest[..first.len_utf8()]));
            result.push_str(replacement);
            rest = &rest[length..];
        }
        result
    }

    /// The length of the longest string of the trie that `text` begins with, and what replaces it.
    fn longest_match(&self, text: &str) -> Option<(usize, &str)> {
        let mut found = None;
        let mut place = offset(*self.units.first()?) as usize;
        for (index, byte) in text.bytes().enumerate() {
            place ^= usize::from(byte);
            let Some(&unit) = self.units.get(place) else { break };
            // A label with its highest bit set is a value's.
            if unit & (1 << 31 | 0xFF) != u32::from(byte) {
                break;
            }
            place ^= offset(unit) as usize;
            let has_value = unit >> 8 & 1 == 1;
            if has_value && text.is_char_boundary(index + 1) {
                found = self.units.get(place).map(|value| (index + 1, value & !(1 << 31)));
            }
        }
        let (length, start) = found?;
        let replacement = self.replacements.get(start as usize..)?;
        let end = replacement.iter().position(|&byte| byte == 0)?;
        Some((length, std::str::from_utf8(&replacement[..end]).ok()?))
    }
}

/// Where a unit's children begin, relative to its own place.
fn offset(unit: u32) -> u32 {
    (unit >> 10) << ((unit & 1 << 9) >> 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trie with one string, "A", which "a" replaces: the root leads to place 'A' ^ 1, and that to its value.
    fn table() -> Vec<u8> {
        let (root, child) = (1_u32, u32::from(b'A') ^ 1);
        let mut units = vec![0_u32; 256];
        units[0] = root << 10;
        // Its value lies where its own offset leads.
        units[child as usize] = u32::from(b'A') | 1 << 8 | (child ^ 0xC8) << 10;
        units[0xC8] = 1 << 31;
        let trie: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        [&(trie.len() as u32).to_le_bytes()[..], &trie, b"a\0"].concat()
    }

    #[test]
    fn strings_are_replaced_and_damage_is_found() {
        let table = table();
        let normalise = |text: &str| CharacterTable::new(&table).expect("a table").normalise(text);
        assert_eq!(normalise("AbÄ A"), "abÄ a");
        assert!(CharacterTable::new(&table[..3]).is_none());
        assert!(CharacterTable::new(&table[..100]).is_none());
        // Whatever the bytes, nothing panics.
        for at in 4..table.len() {
            let mut damaged = table.clone();
            damaged[at] ^= 0xFF;
            if let Some(table) = CharacterTable::new(&damaged) {
                table.normalise("AbÄ A\u{0}\u{7f}");
            }
        }
    }
}
