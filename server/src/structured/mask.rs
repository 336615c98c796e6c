//! The engine's `TokenMask` over a compiled grammar.

use std::sync::Arc;

use llguidance::Matcher;
use parking_lot::Mutex;
use quire_engine::TokenMask;
use quire_engine::request::TokenId;

/// A compiled grammar, for as many answers as want it.
pub(super) struct Compiled {
    /// Never goes on: what it has found out is of the grammar alone.
    pristine: Mutex<Matcher>,
    /// Answers share what its copies find out of the grammar while they go on.
    shared: Mutex<Matcher>,
}

impl Compiled {
    /// An error says what is wrong with the grammar.
    pub(super) fn new(pristine: Matcher) -> Self {
        let shared = Mutex::new(pristine.deep_clone());
        Self { pristine: Mutex::new(pristine), shared }
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
        let mask = self.attempt(Matcher::compute_mask_or_eos)?;
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
