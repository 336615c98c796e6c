//! What an answer must follow: which tokens may come next, as a front-end's grammar says it, and where an answer stands.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

use crate::request::TokenId;
use crate::sequence_table::RowSampling;
use crate::step_runner::panic_text;

/// Processor time that the grammar of an answer may take: so much, and more a token. Others wait for the masks of a step.
const TIME_AT_START: Duration = Duration::from_millis(200);
const TIME_A_TOKEN: Duration = Duration::from_millis(1);

/// The grammar of one answer as the answer grows. It begins before the first token.
///
/// An error ends its own request. Who calls it may begin it anew and go on by the tokens so far, at any time.
pub trait TokenMask: Send {
    /// Sets the bits of the tokens that may come next: bit `t % 32` of word `t / 32` for token `t`, and those of end tokens
    /// where the answer may end. `allowed` has a bit for each logit and comes with all of them 0.
    fn fill(&mut self, allowed: &mut [u32]) -> Result<(), String>;

    /// Goes on by a token that may come next.
    fn advance(&mut self, token: TokenId) -> Result<(), String>;

    /// Goes back by so many tokens.
    fn rollback(&mut self, num_tokens: usize) -> Result<(), String>;

    /// How many of these may come next, one after the other. Stays where it is.
    fn num_allowed(&mut self, tokens: &[TokenId]) -> usize;
}

/// Begins a `TokenMask` for each answer of a request. Cheap to clone; equal to its clones only.
#[derive(Clone)]
pub struct Constraint(Arc<dyn Fn() -> Box<dyn TokenMask> + Send + Sync>);

impl Constraint {
    /// `begin` makes the mask of an answer that has no token yet. It is called on the engine's threads.
    pub fn new(begin: impl Fn() -> Box<dyn TokenMask> + Send + Sync + 'static) -> Self {
        Self(Arc::new(begin))
    }

    /// A mask of its own.
    pub fn begin(&self) -> Box<dyn TokenMask> {
        (self.0)()
    }
}

impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraint")
    }
}

/// Where an answer stands in its grammar. The loop cuts drafts by it between steps, a step makes masks by it.
pub struct Guide {
    constraint: Constraint,
    /// Its masks may take some time and no more.
    is_limited: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None`: at the beginning.
    mask: Option<Box<dyn TokenMask>>,
    /// Output tokens that `mask` has gone on by.
    num_tokens: usize,
    /// That it took so far, whoever else ran meanwhile.
    processor_time: Duration,
    failure: Option<String>,
}

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guide").field("num_tokens", &self.num_tokens()).finish_non_exhaustive()
    }
}

impl Guide {
    pub fn new(constraint: Constraint) -> Self {
        Self { constraint, is_limited: true, state: Mutex::default() }
    }

    /// Of another rank, at the beginning. What it takes is no reason to part: the first rank's guide has the limit.
    pub fn for_rank(&self) -> Self {
        let constraint = self.constraint.clone();
        Self { constraint, is_limited: false, state: Mutex::default() }
    }

    /// How many output tokens it knows: `masks` wants those after them.
    pub fn num_tokens(&self) -> usize {
        self.state.lock().num_tokens
    }

    /// Why the answer cannot go on.
    pub fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    /// Begins anew: the tokens so far may not be what it knows.
    pub fn restart(&self) {
        *self.state.lock() = State::default();
    }

    /// How many of `drafts` may follow `output`, all tokens of the answer.
    pub fn num_allowed(&self, output: &[TokenId], drafts: &[TokenId]) -> usize {
        let mut state = self.state.lock();
        if state.failure.is_some() {
            return 0;
        }
        let (before, tail) = output.split_at(state.num_tokens.min(output.len()));
        let asked = timed(&mut state, |state| {
            state.go_to(&self.constraint, before.len(), tail)?;
            Ok(state.mask.as_mut().expect("there after going on").num_allowed(drafts))
        });
        asked.unwrap_or_else(|_| {
            // The step will say why.
            state.forget();
            0
        })
    }

    /// The masks after the answer's tokens and after each of `drafts`: `[1 + drafts, words]` in `out`. `tail`: those output
    /// tokens that come after the first `num_before`. A mask without bits: no token may come there, or none can.
    pub fn masks(
        &self,
        sampling: &RowSampling,
        (num_before, tail): (usize, &[TokenId]),
        drafts: &[TokenId],
        out: &mut [u32],
    ) {
        out.fill(0);
        let mut state = self.state.lock();
        // Of a step that failed and was forgotten since, nobody reads the masks.
        if state.failure.is_some() || state.num_tokens < num_before {
            return;
        }
        let num_output = num_before + tail.len();
        let mut rows = out.chunks_exact_mut(out.len() / (1 + drafts.len()));
        let first = rows.next().expect("there is a row for the next token");
        let made = timed(&mut state, |state| {
            state.go_to(&self.constraint, num_before, tail)?;
            let mask = state.mask.as_mut().expect("there after going on");
            mask.fill(first)?;
            sampling.narrow(first, num_output)
        });
        let made = made.and_then(|()| match self.is_limited {
            true => state.check_time(num_output),
            false => Ok(()),
        });
        if let Err(message) = made {
            first.fill(0);
            state.failure = Some(message);
            return;
        }
        if drafts.is_empty() {
            return;
        }
        let made = timed(&mut state, |state| {
            let mask = state.mask.as_mut().expect("there after going on");
            after_drafts(&mut **mask, sampling, num_output, drafts, (first, rows))
        });
        if made.is_err() {
            // What comes after drafts fails when it comes first.
            state.forget();
        }
    }
}

impl State {
    fn go_to(
        &mut self,
        constraint: &Constraint,
        num_before: usize,
        tail: &[TokenId],
    ) -> Result<(), String> {
        let mask = self.mask.get_or_insert_with(|| constraint.begin());
        if self.num_tokens > num_before {
            mask.rollback(self.num_tokens - num_before)?;
        } else if self.num_tokens < num_before {
            return Err("the grammar has lost its place".into());
        }
        self.num_tokens = num_before + tail.len();
        tail.iter().try_for_each(|&token| mask.advance(token))
    }

    fn forget(&mut self) {
        (self.mask, self.num_tokens) = (None, 0);
    }

    fn check_time(&self, num_output: usize) -> Result<(), String> {
        let tokens = u32::try_from(num_output).unwrap_or(u32::MAX);
        match self.processor_time > TIME_AT_START.saturating_add(TIME_A_TOKEN * tokens) {
            true => Err("the grammar takes too long for each token: make it simpler".into()),
            false => Ok(()),
        }
    }
}

/// Fills the masks after each draft, as far as the drafts are allowed, and goes back.
fn after_drafts<'a>(
    mask: &mut dyn TokenMask,
    sampling: &RowSampling,
    num_output: usize,
    drafts: &[TokenId],
    (first, rows): (&'a mut [u32], impl Iterator<Item = &'a mut [u32]>),
) -> Result<(), String> {
    let (mut before, mut num_taken) = (first, 0);
    for (&draft, row) in drafts.iter().zip(rows) {
        let is_allowed = before[draft as usize / 32] >> (draft % 32) & 1 == 1;
        if !is_allowed || mask.advance(draft).is_err() {
            break;
        }
        num_taken += 1;
        let made = mask.fill(row).and_then(|()| sampling.narrow(row, num_output + num_taken));
        if let Err(message) = made {
            row.fill(0);
            return Err(message);
        }
        before = row;
    }
    mask.rollback(num_taken)
}

/// Counts the time of `work`, which is guarded.
fn timed<T>(
    state: &mut State,
    work: impl FnOnce(&mut State) -> Result<T, String>,
) -> Result<T, String> {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
    let start = now();
    let done = guarded(|| work(state));
    state.processor_time += now().saturating_sub(start);
    done
}

/// A grammar that panics fails its own request.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        tracing::error!("a grammar panicked: {}", panic_text(&*payload));
        Err("an internal error in the grammar stopped this request".into())
    })
}

/// A guide over a grammar that counts: token `n` must follow `n - 1`, and 9 ends it.
#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::request::SamplingParams;

    const VOCAB_SIZE: u32 = 40;
    const END: TokenId = 9;

    struct Counting {
        taken: Vec<TokenId>,
        fails_at: Option<u32>,
    }

    impl Counting {
        fn next(&self) -> TokenId {
            self.taken.last().map_or(0, |last| last + 1)
        }
    }

    impl TokenMask for Counting {
        fn fill(&mut self, allowed: &mut [u32]) -> Result<(), String> {
            let next = self.next();
            if self.fails_at == Some(next) {
                return Err("dead end".into());
            }
            // 30 may always come instead, and changes nothing.
            allowed[0] |= 1 << next | 1 << 30;
            Ok(())
        }

        fn advance(&mut self, token: TokenId) -> Result<(), String> {
            let next = self.next();
            match token {
                30 => self.taken.push(self.taken.last().copied().unwrap_or(u32::MAX)),
                _ if token == next => self.taken.push(token),
                _ => return Err(format!("{token} after {:?}", self.taken)),
            }
            Ok(())
        }

        fn rollback(&mut self, num_tokens: usize) -> Result<(), String> {
            let left = self.taken.len().checked_sub(num_tokens).ok_or("nothing to take back")?;
            self.taken.truncate(left);
            Ok(())
        }

        fn num_allowed(&mut self, tokens: &[TokenId]) -> usize {
            tokens.iter().zip(self.next()..).take_while(|&(&token, next)| token == next).count()
        }
    }

    fn counting(fails_at: Option<u32>) -> SamplingParams {
        let begin =
            move || Box::new(Counting { taken: Vec::new(), fails_at }) as Box<dyn TokenMask>;
        SamplingParams { constraint: Some(Constraint::new(begin)), ..SamplingParams::default() }
    }

    fn row(params: SamplingParams) -> RowSampling {
        RowSampling::new(params, 0, &[END], VOCAB_SIZE)
    }

    /// The tokens of each mask.
    fn masks(
        row: &RowSampling,
        before: usize,
        tail: &[TokenId],
        drafts: &[TokenId],
    ) -> Vec<Vec<TokenId>> {
        let mut bits = vec![u32::MAX; 2 * (1 + drafts.len())];
        row.guide().expect("constrained").masks(row, (before, tail), drafts, &mut bits);
        let tokens = |mask: &[u32]| {
            (0..64).filter(|token| mask[*token as usize / 32] >> (token % 32) & 1 == 1).collect()
        };
        bits.chunks(2).map(tokens).collect()
    }

    #[test]
    fn masks_follow_the_tokens_and_drafts_leave_no_trace() {
        let row = row(counting(None));
        assert_eq!(masks(&row, 0, &[], &[]), [[0, 30]]);
        assert_eq!(masks(&row, 0, &[0, 1], &[2, 3]), [[2, 30], [3, 30], [4, 30]]);
        // What follows a draft that may not come is never asked for.
        assert_eq!(masks(&row, 2, &[], &[2, 7, 8]), [vec![2, 30], vec![3, 30], vec![], vec![]]);
        let guide = row.guide().expect("constrained");
        assert_eq!(guide.num_allowed(&[0, 1, 2], &[3, 4, 6]), 2);
        assert_eq!(guide.num_allowed(&[0, 1, 2], &[9]), 0);
        // A sequence that is computed again has fewer tokens than the guide knows.
        assert_eq!(masks(&row, 1, &[1], &[]), [[2, 30]]);
        guide.restart();
        assert_eq!(masks(&row, 2, &[2], &[]), [[0; 0]], "of a step that was forgotten");
        assert_eq!(masks(&row, 0, &[0, 1, 2], &[]), [[3, 30]]);
        assert_eq!(guide.failure(), None);
    }

    #[test]
    fn a_dead_end_fails_when_it_is_reached_and_not_before() {
        let row = row(counting(Some(4)));
        let guide = row.guide().expect("constrained");
        assert_eq!(masks(&row, 0, &[0, 1], &[2, 3]), [vec![2, 30], vec![3, 30], vec![]]);
        assert_eq!(guide.failure(), None);
        assert_eq!(masks(&row, 0, &[0, 1, 2], &[]), [[3, 30]]);
        assert_eq!(masks(&row, 3, &[3], &[]), [[0; 0]]);
        assert_eq!(guide.failure().as_deref(), Some("dead end"));
    }

    #[test]
    fn other_settings_narrow_a_mask_but_the_end_stays_where_nothing_else_is() {
        let minimum = SamplingParams { min_tokens: 20, ..counting(None) };
        let all = [0, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(masks(&row(minimum.clone()), 0, &all, &[]), [[30]]);
        let no_other = SamplingParams { banned_token_ids: vec![30], ..minimum.clone() };
        assert_eq!(masks(&row(no_other.clone()), 0, &all, &[]), [[END]]);
        let endless = SamplingParams { min_tokens: 0, ignore_eos: true, ..minimum.clone() };
        assert_eq!(masks(&row(endless), 0, &all, &[]), [[30]]);
        let late = SamplingParams { min_tokens: 9, ..minimum };
        assert_eq!(masks(&row(late), 0, &all, &[]), [[END, 30]]);
        let nothing = SamplingParams { allowed_token_ids: Some(vec![7, 33]), ..counting(None) };
        let nothing = row(nothing);
        assert_eq!(masks(&nothing, 0, &all[..7], &[]), [[7]]);
        assert_eq!(masks(&nothing, 7, &[7], &[]), [[0; 0]]);
        let failure = nothing.guide().expect("constrained").failure().expect("nothing is left");
        assert!(failure.contains("allowed_token_ids"), "{failure}");
    }

    #[test]
    fn a_grammar_that_panics_fails_its_request() {
        struct Panics;
        impl TokenMask for Panics {
            fn fill(&mut self, _: &mut [u32]) -> Result<(), String> {
                panic!("planted")
            }
            fn advance(&mut self, _: TokenId) -> Result<(), String> {
                Ok(())
            }
            fn rollback(&mut self, _: usize) -> Result<(), String> {
                Ok(())
            }
            fn num_allowed(&mut self, _: &[TokenId]) -> usize {
                panic!("planted")
            }
        }
        let num_begun = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&num_begun);
        let constraint = Constraint::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            Box::new(Panics)
        });
        let row = row(SamplingParams { constraint: Some(constraint), ..SamplingParams::default() });
        let guide = row.guide().expect("constrained");
        assert_eq!(guide.num_allowed(&[], &[1]), 0);
        assert_eq!(masks(&row, 0, &[], &[1]), [[0; 0], [0; 0]]);
        assert!(guide.failure().is_some_and(|failure| failure.contains("internal error")));
        assert_eq!(num_begun.load(Ordering::Relaxed), 2);
    }
}
