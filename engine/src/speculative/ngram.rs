//! Prompt lookup: what followed the same tokens earlier in the prompt or the output (Saxena 2023), by the longest suffix.

use std::collections::HashMap;

use quire_scheduler::{DraftTree, SequenceId, TokenId};

use super::suffix_automaton::{Match, SuffixAutomaton};
use super::{Ask, Guess, Kind, Proposer};
use crate::step_runner::StepRunner;

/// Tokens that the automata of all sequences hold together, at about 120 bytes each; sequences beyond get no drafts.
const MAX_TOKENS: usize = 1 << 19;

pub const NGRAM: Kind =
    Kind { name: "ngram", argument: "", check: |_| Ok(()), load: |_| Ok(Box::<Ngram>::default()) };

/// An automaton a sequence.
#[derive(Default)]
pub struct Ngram {
    automata: HashMap<SequenceId, SuffixAutomaton>,
    num_tokens: usize,
}

impl Proposer for Ngram {
    fn propose(&mut self, _target: &mut StepRunner, asks: &[Ask], guesses: &mut Vec<Guess>) {
        guesses.extend(asks.iter().map(|ask| self.guess(ask)));
    }

    fn forget(&mut self, id: SequenceId) {
        let automaton = self.automata.remove(&id);
        self.num_tokens -= automaton.map_or(0, |automaton| automaton.len());
    }
}

impl Ngram {
    fn guess(&mut self, ask: &Ask) -> Guess {
        let automaton = self.automata.entry(ask.id).or_default();
        let new = &ask.tokens[automaton.len()..];
        if self.num_tokens + new.len() > MAX_TOKENS {
            return Guess::default();
        }
        self.num_tokens += new.len();
        new.iter().for_each(|&token| automaton.push(token));
        let Match { len, end } = automaton.longest_match();
        if len == 0 {
            return Guess::default();
        }
        Guess { drafts: copy(ask.tokens, end as usize, ask.most), evidence: len }
    }
}

/// `most` tokens from `start` on; behind the last one the text goes on with the copy itself.
fn copy(tokens: &[TokenId], start: usize, most: usize) -> DraftTree {
    let mut drafts = DraftTree::EMPTY;
    for index in start..start + most {
        drafts.push(match tokens.get(index) {
            Some(&token) => token,
            None => drafts[index - tokens.len()],
        });
    }
    drafts
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::SamplingParams;
    use crate::sequence_table::RowSampling;

    fn ask<'a>(
        id: u64,
        tokens: &'a [TokenId],
        most: usize,
        sampling: &'a Arc<RowSampling>,
    ) -> Ask<'a> {
        Ask { id: SequenceId(id), tokens, most, sampling, num_prompt_tokens: 1, cache_salt: 0 }
    }

    fn sampling() -> Arc<RowSampling> {
        Arc::new(RowSampling::new(SamplingParams::greedy(1), 0, &[], 512))
    }

    fn guess(tokens: &[TokenId], most: usize) -> (Vec<TokenId>, u32) {
        let guess = Ngram::default().guess(&ask(1, tokens, most, &sampling()));
        (guess.drafts.to_vec(), guess.evidence)
    }

    #[test]
    fn what_followed_the_longest_suffix_follows_again() {
        assert_eq!(guess(&[1, 2, 3, 4, 9, 3, 5, 1, 2, 3], 2), (vec![4, 9], 3));
        // The last place counts.
        assert_eq!(guess(&[1, 2, 6, 1, 3, 1], 3), (vec![3, 1, 3], 1));
        // A period goes on and on.
        assert_eq!(guess(&[5, 6, 5, 6, 5], 5), (vec![6, 5, 6, 5, 6], 3));
        assert_eq!(guess(&[1, 2, 3], 4), (vec![], 0));
    }

    #[test]
    fn sequences_that_ended_leave_room() {
        let mut ngram = Ngram::default();
        let tokens = vec![3; MAX_TOKENS / 2 + 1];
        let sampling = sampling();
        let num_drafts =
            |ngram: &mut Ngram, id| ngram.guess(&ask(id, &tokens, 1, &sampling)).drafts.len();
        assert_eq!([1, 2].map(|id| num_drafts(&mut ngram, id)), [1, 0]);
        ngram.forget(SequenceId(1));
        assert_eq!(num_drafts(&mut ngram, 2), 1);
        ngram.forget(SequenceId(2));
        assert_eq!(ngram.num_tokens, 0);
    }
}
