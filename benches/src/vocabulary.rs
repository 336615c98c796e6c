//! A byte-level vocabulary of any size, so that random models can be served: every text has tokens, every token a text.

use anyhow::ensure;
use quire_engine::weights::gguf::GgufWriter;

/// The last tokens of the vocabulary.
const CONTROL_TOKENS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}\
{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Bytes, then pairs, triples and so on of bytes, then control tokens; with the merges that make them (as GPT-2's).
pub struct Vocabulary {
    tokens: Vec<String>,
    merges: Vec<String>,
}

impl Vocabulary {
    /// `size` tokens: at least 256 bytes and 3 control tokens.
    pub fn new(size: usize) -> anyhow::Result<Self> {
        let least = 256 + CONTROL_TOKENS.len();
        ensure!(size >= least, "a vocabulary has at least {least} tokens, not {size}");
        let bytes: Vec<char> = (0..=255).map(byte_char).collect();
        let mut tokens: Vec<String> = letters_first().map(|byte| bytes[byte].to_string()).collect();
        let mut merges = Vec::new();
        // Longer tokens: each token so far followed by each byte, in order of the tokens.
        'grow: for left in 0.. {
            for right in letters_first() {
                if tokens.len() + CONTROL_TOKENS.len() >= size {
                    break 'grow;
                }
                merges.push(format!("{} {}", tokens[left], bytes[right]));
                tokens.push(format!("{}{}", tokens[left], bytes[right]));
            }
        }
        tokens.extend(CONTROL_TOKENS.map(str::to_owned));
        Ok(Self { tokens, merges })
    }

    /// The tokenizer's keys of a GGUF file.
    pub fn write_keys(&self, writer: &mut GgufWriter) {
        const NORMAL: i32 = 1;
        const CONTROL: i32 = 3;
        let num_normal = self.tokens.len() - CONTROL_TOKENS.len();
        let mut types = vec![NORMAL; num_normal];
        types.resize(self.tokens.len(), CONTROL);
        let id = |index: usize| (num_normal + index) as u32;
        writer.string("tokenizer.ggml.model", "gpt2");
        writer.string("tokenizer.ggml.pre", "gpt-2");
        writer.strings("tokenizer.ggml.tokens", &self.tokens);
        writer.i32s("tokenizer.ggml.token_type", &types);
        writer.strings("tokenizer.ggml.merges", &self.merges);
        writer.u32("tokenizer.ggml.bos_token_id", id(0));
        writer.u32("tokenizer.ggml.eos_token_id", id(2));
        writer.bool("tokenizer.ggml.add_bos_token", false);
        writer.string("tokenizer.chat_template", CHAT_TEMPLATE);
    }
}

/// Bytes in the order of their tokens: those of common text first, so that small vocabularies have their pairs.
fn letters_first() -> impl Iterator<Item = usize> {
    let letters = || (0..1).map(|_| usize::from(b' ')).chain(usize::from(b'a')..=usize::from(b'z'));
    letters().chain((0..256).filter(move |&byte| !letters().any(|letter| letter == byte)))
}

/// The character that stands for a byte in GPT-2's vocabularies: printable ones for themselves, the others from U+0100 on.
fn byte_char(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_printable(byte) {
        return char::from(byte);
    }
    let index = (0..byte).filter(|&other| !is_printable(other)).count() as u32;
    char::from_u32(0x100 + index).expect("a letter of Latin Extended-A")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_size_has_distinct_tokens_and_their_merges() {
        for size in [259, 260, 5000, 70_000] {
            let vocabulary = Vocabulary::new(size).expect("enough tokens");
            let tokens: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
            assert_eq!((vocabulary.tokens.len(), tokens.len()), (size, size));
            assert_eq!(vocabulary.merges.len(), size - 259);
            for merge in &vocabulary.merges {
                let (left, right) = merge.split_once(' ').expect("two tokens");
                assert!(tokens.contains(left) && tokens.contains(right), "{merge}");
                assert!(tokens.contains(format!("{left}{right}").as_str()), "{merge}");
            }
        }
        assert!(Vocabulary::new(258).is_err());
    }

    #[test]
    fn bytes_have_the_letters_of_gpt2() {
        let expected = [(b'A', 'A'), (b' ', 'Ġ'), (b'\n', 'Ċ'), (0, 'Ā'), (0xad, 'Ń'), (0xff, 'ÿ')];
        for (byte, letter) in expected {
            assert_eq!(byte_char(byte), letter);
        }
    }
}
