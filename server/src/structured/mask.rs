//! The engine's `TokenMask` over a compiled grammar.

use std::collections::HashMap;
use std::sync::Arc;

use llguidance::Matcher;
use parking_lot::Mutex;
use quire_engine::TokenMask;
use quire_engine::request::TokenId;

/// Answers to one grammar begin alike: masks after at most so many tokens are kept, if they were much work, and so many of them.
const MAX_KEPT_TOKENS: usize = 16;
const MAX_KEPT_MASKS: usize = 32;
/// Nodes of the tree of tokens: some tens of microseconds.
const MUCH_WORK: usize = 5000;

type Words = Box<[u32]>;

/// A compiled grammar, for as many answers as want it.
pub(super) struct Compiled {
    /// Never goes on: what it has found out is of the grammar alone.
    pristine: Mutex<Matcher>,
    /// Answers share what its copies find out of the grammar while they go on.
    shared: Mutex<Matcher>,
    /// By all tokens so far: nothing else decides a mask.
    beginnings: Mutex<HashMap<Vec<TokenId>, Arc<Words>>>,
}

impl Compiled {
    /// An error says what is wrong with the grammar.
    pub(super) fn new(pristine: Matcher) -> Self {
        let shared = Mutex::new(pristine.deep_clone());
        Self { pristine: Mutex::new(pristine), shared, beginnings: Mutex::default() }
    }

    pub(super) fn begin(self: &Arc<Self>) -> Box<dyn TokenMask> {
        Box::new(Mask {
            matcher: self.shared.lock().clone(),
            compiled: Arc::clone(self),
            tokens: Vec::new(),
            has_ended: false,
            is_alone: false,
        })
    }

    fn find(&self, tokens: &[TokenId]) -> Option<Arc<Words>> {
        let is_short = tokens.len() <= MAX_KEPT_TOKENS;
        is_short.then(|| self.beginnings.lock().get(tokens).cloned()).flatten()
    }

    fn keep(&self, tokens: &[TokenId], mask: &[u32]) {
        let mut kept = self.beginnings.lock();
        if tokens.len() <= MAX_KEPT_TOKENS && kept.len() < MAX_KEPT_MASKS {
            kept.insert(tokens.to_vec(), Arc::new(mask.into()));
        }
    }

    /// At the beginning, and sharing nothing.
    fn fresh(&self) -> Matcher {
        self.pristine.lock().deep_clone()
    }
}

struct Mask {
    matcher: Matcher,
    compiled: Arc<Compiled>,
    /// Those before the end token.
    tokens: Vec<TokenId>,
    /// The end token was taken, which the matcher never hears of.
    has_ended: bool,
    is_alone: bool,
}

impl Mask {
    /// Does it again alone if it fails: what is shared may be full, or broken by another answer.
    fn attempt<T>(
        &mut self,
        work: impl Fn(&mut Matcher) -> anyhow::Result<T>,
    ) -> Result<T, String> {
        match work(&mut self.matcher) {
            Ok(done) => Ok(done),
            Err(error) if self.is_alone => Err(first_line(&error)),
            Err(_) => {
                self.is_alone = true;
                self.matcher = self.compiled.fresh();
                *self.compiled.shared.lock() = self.compiled.fresh();
                let again = self.matcher.consume_tokens(&self.tokens);
                again.and_then(|()| work(&mut self.matcher)).map_err(|error| first_line(&error))
            }
        }
    }

    fn is_end(&self, token: TokenId) -> bool {
        let environment = self.matcher.tok_env();
        environment.is_ok_and(|environment| environment.tok_trie().eos_tokens().contains(&token))
    }
}

impl TokenMask for Mask {
    fn fill(&mut self, allowed: &mut [u32]) -> Result<(), String> {
        if self.has_ended {
            return Err("nothing comes after the end".into());
        }
        if let Some(mask) = self.compiled.find(&self.tokens) {
            allowed.iter_mut().zip(&mask[..]).for_each(|(word, bits)| *word = *bits);
            return Ok(());
        }
        let mask = self.attempt(Matcher::compute_mask_or_eos)?;
        if self.matcher.last_step_stats().is_ok_and(|did| did.trie_nodes_walked > MUCH_WORK) {
            self.compiled.keep(&self.tokens, mask.as_slice());
        }
        allowed.iter_mut().zip(mask.as_slice()).for_each(|(word, bits)| *word = *bits);
        if allowed.iter().all(|&word| word == 0) {
            return Err("the grammar allows no token here".into());
        }
        Ok(())
    }

    fn advance(&mut self, token: TokenId) -> Result<(), String> {
        if self.has_ended {
            return Err("nothing comes after the end".into());
        }
        if self.is_end(token) {
            self.has_ended = true;
            return Ok(());
        }
        self.attempt(|matcher| matcher.consume_token(token))?;
        self.tokens.push(token);
        Ok(())
    }

    fn rollback(&mut self, num_tokens: usize) -> Result<(), String> {
        let ended = usize::from(self.has_ended && num_tokens > 0);
        self.has_ended &= ended == 0;
        let num_tokens = num_tokens - ended;
        let num_left = self.tokens.len().checked_sub(num_tokens).ok_or("no such token")?;
        self.tokens.truncate(num_left);
        self.matcher.rollback(num_tokens).map_err(|error| first_line(&error))
    }

    fn num_allowed(&mut self, tokens: &[TokenId]) -> usize {
        let end = tokens.iter().position(|&token| self.is_end(token));
        let before = &tokens[..end.unwrap_or(tokens.len())];
        let num_allowed = self.attempt(|matcher| matcher.validate_tokens(before)).unwrap_or(0);
        // Whether it may end there the mask says.
        num_allowed + usize::from(end == Some(num_allowed))
    }
}

/// What is wrong, without the state of the parser.
pub(super) fn first_line(error: &anyhow::Error) -> String {
    let text = error.to_string();
    let text = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
    format!("the grammar cannot go on: {}", crate::error::shortened(text))
}

/// A vocabulary of all texts of one to three letters, whose tree is much work.
#[cfg(test)]
mod tests {
    use llguidance::ParserFactory;
    use llguidance::api::TopLevelGrammar;
    use llguidance::toktrie::{
        ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie,
    };

    use super::*;

    const LETTERS: u32 = 26;
    const NUM_TOKENS: u32 = LETTERS + LETTERS.pow(2) + LETTERS.pow(3) + 1;

    fn compiled(regex: &str) -> Arc<Compiled> {
        let letters = || (b'a'..=b'z').map(|letter| vec![letter]);
        let longer = |words: &[Vec<u8>]| -> Vec<Vec<u8>> {
            words
                .iter()
                .flat_map(|word| letters().map(move |end| [&word[..], &end].concat()))
                .collect()
        };
        let ones: Vec<Vec<u8>> = letters().collect();
        let (twos, threes) = (longer(&ones), longer(&longer(&ones)));
        let words = [ones, twos, threes, vec![b"\xffend".to_vec()]].concat();
        let info = TokRxInfo::new(NUM_TOKENS, NUM_TOKENS - 1);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(TokTrie::from(&info, &words)));
        let factory =
            ParserFactory::new(&environment, InferenceCapabilities::default(), &[]).unwrap();
        let parser = factory.create_parser(TopLevelGrammar::from_regex(regex));
        Arc::new(Compiled::new(Matcher::new(parser)))
    }

    fn filled(mask: &mut Box<dyn TokenMask>) -> Vec<u32> {
        let mut allowed = vec![0; NUM_TOKENS.div_ceil(32) as usize];
        mask.fill(&mut allowed).unwrap();
        allowed
    }

    #[test]
    fn beginnings_are_shared_by_equal_tokens_alone() {
        let regex = "[a-m]{1,4}([n-z]|ab)*";
        let shared = compiled(regex);
        let ways: [&[u32]; 4] = [&[0], &[0, 13], &[1, 0, 1], &[0, 13]];
        let mut seen = Vec::new();
        for way in ways {
            let (mut mask, mut alone) = (shared.begin(), compiled(regex).begin());
            for token in way {
                assert_eq!(filled(&mut mask), filled(&mut alone), "{way:?}");
                mask.advance(*token).unwrap();
                alone.advance(*token).unwrap();
            }
            assert_eq!(filled(&mut mask), filled(&mut alone), "{way:?}");
            seen.push(filled(&mut mask));
            mask.rollback(way.len()).unwrap();
            assert_eq!(filled(&mut mask), filled(&mut compiled(regex).begin()), "{way:?}");
        }
        assert!(seen[0] != seen[1] && seen[1] != seen[2] && seen[1] == seen[3]);
        let kept = shared.beginnings.lock();
        assert!(kept.contains_key(&[][..]) && kept.contains_key(&[0][..]), "{}", kept.len());
    }
}
