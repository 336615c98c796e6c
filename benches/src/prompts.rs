//! Prompts for load: the same in every run, each different from its first word on.

/// Common words, each a token of its own in most vocabularies.
const WORDS: [&str; 64] = [
    "the", "water", "house", "people", "light", "music", "river", "story", "night", "world",
    "paper", "stone", "green", "small", "large", "early", "white", "black", "round", "clear",
    "north", "south", "table", "chair", "plant", "horse", "bread", "field", "metal", "glass",
    "cloud", "earth", "winter", "summer", "garden", "window", "mother", "father", "sister",
    "school", "letter", "number", "market", "village", "morning", "evening", "mountain",
    "computer", "language", "question", "answer", "picture", "between", "before", "after", "under",
    "over", "near", "many", "some", "every", "other", "while", "because",
];

/// Tokens that a chat template and the number add to the words, about.
pub const OVERHEAD_TOKENS: usize = 34;

/// Request number `number` with `num_words` words.
///
/// It begins with its number and goes on with words drawn by it, so that no prefix cache holds more than the template.
pub fn prompt(number: u64, num_words: usize) -> String {
    let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut text = format!("{number}.");
    for _ in 0..num_words {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let word = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 58;
        text.push(' ');
        text.push_str(WORDS[word as usize]);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn prompts_are_repeatable_and_differ_from_the_start() {
        assert_eq!(prompt(5, 90), prompt(5, 90));
        let starts: HashSet<String> = (0..500).map(|n| prompt(n, 90)[..12].to_owned()).collect();
        assert_eq!(starts.len(), 500);
        assert_eq!(prompt(7, 90).split_whitespace().count(), 91);
    }
}
