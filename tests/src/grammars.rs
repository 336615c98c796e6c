//! A grammar over token ids, for tests that need no text.

use std::time::Duration;

use quire_engine::{Constraint, TokenMask};
use rustix::time::{ClockId, clock_gettime};

/// Ends an answer.
pub const END: u32 = 3;

/// Any token, then those of its class plus one modulo 4, and so on; the end after 6, 12, 18 … tokens.
#[derive(Clone, Default)]
pub struct Classes {
    taken: Vec<u32>,
    /// After so many tokens nothing may come.
    dead_end: Option<usize>,
    /// How long each mask keeps a processor busy.
    effort: Duration,
}

impl Classes {
    /// After so many tokens nothing may come.
    pub fn with_dead_end(num_tokens: usize) -> Self {
        Self { dead_end: Some(num_tokens), ..Self::default() }
    }

    /// Each mask keeps a processor busy so long.
    pub fn with_effort(effort: Duration) -> Self {
        Self { effort, ..Self::default() }
    }

    /// For a request.
    pub fn constraint(self) -> Option<Constraint> {
        Some(Constraint::new(move || Box::new(self.clone())))
    }

    fn allows(&self, token: u32) -> bool {
        let count = self.taken.len();
        match self.taken.last() {
            _ if token == END => count > 0 && count.is_multiple_of(6),
            None => true,
            Some(last) => token % 4 == (last + 1) % 4,
        }
    }
}

impl TokenMask for Classes {
    fn fill(&mut self, allowed: &mut [u32]) -> Result<(), String> {
        if self.dead_end == Some(self.taken.len()) {
            return Err("planted: a dead end".into());
        }
        let end = processor_time() + self.effort;
        while processor_time() < end {
            std::hint::spin_loop();
        }
        let bits = (0..32 * allowed.len() as u32).filter(|&token| self.allows(token));
        bits.for_each(|token| allowed[token as usize / 32] |= 1 << (token % 32));
        Ok(())
    }

    fn advance(&mut self, token: u32) -> Result<(), String> {
        if !self.allows(token) {
            return Err(format!("{token} may not follow {:?}", self.taken.last()));
        }
        self.taken.push(token);
        Ok(())
    }

    fn rollback(&mut self, num_tokens: usize) -> Result<(), String> {
        self.taken.truncate(self.taken.len() - num_tokens);
        Ok(())
    }

    fn num_allowed(&mut self, tokens: &[u32]) -> usize {
        let mut ahead = self.clone();
        tokens.iter().take_while(|&&token| ahead.advance(token).is_ok()).count()
    }
}

/// Of this thread.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("time is not negative")
}
