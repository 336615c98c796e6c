//! The conversations of one run: made before it, so that asking costs nothing, and more of them where it ends by time alone.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::Conversation;

/// Makes the conversation of an index.
type Make = Box<dyn Fn(usize) -> Conversation + Send + Sync>;

pub struct Supply {
    made: Vec<Conversation>,
    /// What comes behind `made`; none: nothing does.
    more: Option<Make>,
    /// So many differ; then they come again.
    period: usize,
    used: AtomicUsize,
}

impl Supply {
    /// These alone, of which only the first `period` differ.
    pub fn fixed(made: Vec<Conversation>, period: usize) -> Self {
        Self { made, more: None, period, used: AtomicUsize::new(0) }
    }

    /// Without end, the first `ahead` of them made at once.
    pub(super) fn endless(
        ahead: usize,
        period: usize,
        make: impl Fn(usize) -> Conversation + Send + Sync + 'static,
    ) -> Self {
        let made = (0..ahead).map(&make).collect();
        Self { made, more: Some(Box::new(make)), period, used: AtomicUsize::new(0) }
    }

    /// Keeps those of a trace that begin up to `limit`, and says when they do, `speed` times as fast.
    pub fn keep_until(&mut self, speed: f64, limit: Duration) -> Vec<Duration> {
        let at = |one: &Conversation| one.at.unwrap_or_default().div_f64(speed);
        self.made.retain(|one| at(one) <= limit);
        self.made.iter().map(at).collect()
    }

    /// The conversation of an index; `None`: there are no more.
    pub fn at(&self, index: usize) -> Option<Cow<'_, Conversation>> {
        let found = match self.made.get(index) {
            Some(made) => Cow::Borrowed(made),
            None => Cow::Owned(self.more.as_ref()?(index)),
        };
        self.used.fetch_max(index + 1, Relaxed);
        Some(found)
    }

    /// Requests of all that were made before the run.
    pub fn num_turns(&self) -> usize {
        self.made.iter().map(|conversation| conversation.turns.len()).sum()
    }

    /// Those that were taken or made.
    pub fn num_used(&self) -> usize {
        self.used.load(Relaxed).max(self.made.len())
    }

    /// Conversations that had been held before in this run.
    pub fn num_repeated(&self) -> usize {
        self.used.load(Relaxed).saturating_sub(self.period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_is_made_or_ends() {
        let make = |index: usize| Conversation::single(index.to_string(), 1);
        let text = |supply: &Supply, index| Some(supply.at(index)?.turns[0].text.clone());
        let endless = Supply::endless(2, usize::MAX, make);
        let texts: Vec<_> = (0..5).filter_map(|index| text(&endless, index)).collect();
        assert_eq!(texts, ["0", "1", "2", "3", "4"]);
        assert_eq!((endless.num_used(), endless.num_repeated(), endless.num_turns()), (5, 0, 2));
        let fixed = Supply::fixed(vec![make(0), make(1), make(0)], 2);
        assert_eq!((fixed.num_used(), fixed.num_repeated()), (3, 0));
        assert_eq!((0..5).filter_map(|index| text(&fixed, index)).count(), 3);
        assert_eq!((fixed.num_used(), fixed.num_repeated()), (3, 1));
    }
}
