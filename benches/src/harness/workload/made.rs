//! Conversations of drawn words: the same for a seed.

use super::{Conversation, Turn, Workload};
use crate::harness::random::Random;
use crate::prompts::prompt;

/// Lengths of prompts in words and of answers in tokens; common words are a token each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lengths {
    pub prompt: usize,
    pub output: usize,
    /// Lengths are uniform within this share around the mean, as with vLLM's `--random-range-ratio`.
    pub spread: f64,
}

impl Lengths {
    fn draw(self, random: &mut Random) -> (usize, usize) {
        let mut around = |mean: usize| {
            let least = (mean as f64 * (1.0 - self.spread)).floor().max(1.0) as usize;
            let most = (mean as f64 * (1.0 + self.spread)).ceil() as usize;
            least + random.below((most + 1).saturating_sub(least).max(1))
        };
        if self.spread > 0.0 {
            (around(self.prompt), around(self.output))
        } else {
            (self.prompt, self.output)
        }
    }
}

/// A generator of its own for each conversation: number `n` is the same in any run of a seed.
fn numbered(workload: &Workload, first: u64, num: usize) -> impl Iterator<Item = (u64, Random)> {
    let seed = workload.seed;
    (first..first + num as u64).map(move |number| {
        let mut mixed = Random::new(seed ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        (number, Random::new(mixed.bits()))
    })
}

fn text(workload: &Workload, number: u64, words: usize) -> String {
    prompt(number + workload.salt, words)
}

pub(super) fn random(workload: &Workload, first: u64, num: usize) -> Vec<Conversation> {
    let made = numbered(workload, first, num).map(|(number, mut random)| {
        let (words, tokens) = workload.lengths.draw(&mut random);
        Conversation::single(text(workload, number, words), tokens)
    });
    made.collect()
}

/// Log-normal lengths with the medians asked for. People's first messages spread widely (σ = 1.3), answers less (σ = 0.9).
pub(super) fn chats(workload: &Workload, first: u64, num: usize) -> Vec<Conversation> {
    let made = numbered(workload, first, num).map(|(number, mut random)| {
        let mut around = |median: usize, sigma: f64, most: usize| {
            let drawn = median as f64 * (sigma * random.normal()).exp();
            (drawn.round() as usize).clamp(4, most.max(4))
        };
        let words = around(workload.lengths.prompt, 1.3, 8 * workload.lengths.prompt);
        let tokens = around(workload.lengths.output, 0.9, 4 * workload.lengths.output);
        Conversation::single(text(workload, number, words), tokens)
    });
    made.collect()
}

/// Each prompt is one of some long beginnings and words of its own.
pub(super) fn prefixed(workload: &Workload, first: u64, num: usize) -> Vec<Conversation> {
    let made = numbered(workload, first, num).map(|(number, mut random)| {
        let (words, tokens) = workload.lengths.draw(&mut random);
        let group = random.below(workload.prefixes.max(1)) as u64;
        let beginning = text(workload, (1 << 50) + group, workload.prefix_words);
        Conversation::single(format!("{beginning}\n{}", text(workload, number, words)), tokens)
    });
    made.collect()
}

pub(super) fn turns(workload: &Workload, first: u64, num: usize) -> Vec<Conversation> {
    let turns = workload.turns.max(1) as u64;
    let made = numbered(workload, first, num).map(|(number, mut random)| {
        let turns = (0..turns).map(|turn| {
            let (words, tokens) = workload.lengths.draw(&mut random);
            Turn { text: text(workload, number * turns + turn, words), max_tokens: tokens }
        });
        Conversation { turns: turns.collect(), ..Conversation::default() }
    });
    made.collect()
}

/// Those of a file, from the beginning again when it ends.
pub(super) fn repeated(all: &[Conversation], first: u64, num: usize) -> Vec<Conversation> {
    let start = if all.is_empty() { 0 } else { first as usize % all.len() };
    all.iter().cycle().skip(start).take(num).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::harness::workload::WorkloadKind;

    fn workload(kind: WorkloadKind) -> Workload {
        let lengths = Lengths { prompt: 40, output: 20, spread: 0.5 };
        Workload {
            kind,
            input: None,
            lengths,
            turns: 3,
            prefixes: 2,
            prefix_words: 30,
            seed: 1,
            salt: 5,
        }
    }

    #[test]
    fn made_conversations_are_repeatable_and_differ() {
        use WorkloadKind::{Prefix, Random, Sharegpt, Turns};
        for kind in [Random, Sharegpt, Prefix, Turns] {
            let workload = workload(kind);
            let all = workload.made(0, 100);
            assert_eq!(all, workload.made(0, 100));
            assert_eq!(all[60..], workload.made(60, 40));
            let texts = all.iter().flat_map(|one| &one.turns).map(|turn| &turn.text);
            let (texts, count) = (texts.clone().collect::<HashSet<_>>(), texts.count());
            assert_eq!(texts.len(), count, "{kind:?}");
            let other = Workload { salt: 1000, ..workload.clone() };
            assert_ne!(all, other.made(0, 100));
        }
    }

    #[test]
    fn lengths_and_prefixes_are_as_asked() {
        for one in workload(WorkloadKind::Random).made(0, 200) {
            assert!((10..=30).contains(&one.turns[0].max_tokens));
            assert!((21..=62).contains(&one.turns[0].text.split_whitespace().count()));
        }
        let all = workload(WorkloadKind::Prefix).made(0, 50);
        let beginnings: HashSet<_> = all
            .iter()
            .filter_map(|one| one.turns[0].text.split_once('\n'))
            .map(|(a, _)| a)
            .collect();
        assert_eq!(beginnings.len(), 2);
        assert!(workload(WorkloadKind::Turns).made(0, 4).iter().all(|one| one.turns.len() == 3));
    }
}
