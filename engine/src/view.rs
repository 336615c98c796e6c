//! What may be seen of an engine while it runs: counters, blocks, the times of requests. Never a token.

use std::collections::VecDeque;
use std::time::Instant;

pub use quire_scheduler::BlockCell;

pub use crate::metrics::{RequestCounts, RequestTimes};

/// Requests that run or wait, and as many that have ended, in a view.
pub const MAX_REQUESTS: usize = 64;

/// An engine between two turns of its loop.
#[derive(Clone, Debug, Default)]
pub struct EngineView {
    pub totals: TokenTotals,
    pub blocks: Vec<BlockCell>,
    /// The first to run or to come first, at most [`MAX_REQUESTS`].
    pub live: Vec<RequestView>,
    /// The last to end first, at most [`MAX_REQUESTS`].
    pub ended: Vec<RequestView>,
}

/// Since the engine was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenTotals {
    /// Of prompts that were computed or found in the cache.
    pub num_prompt_tokens: u64,
    pub num_generated_tokens: u64,
}

/// One request, without what it says.
#[derive(Clone, Debug)]
pub struct RequestView {
    /// In the order of arrival.
    pub id: u64,
    pub state: RequestState,
    pub arrival: Instant,
    /// Up to now, or to its end.
    pub times: RequestTimes,
    pub counts: RequestCounts,
}

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestState {
    /// For its first step.
    Waiting,
    Running,
    /// The label of its reason in metrics.
    Ended(&'static str),
}

impl RequestState {
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Ended(reason) => reason,
        }
    }
}

/// What a view has beside the present: kept as requests go on and end, in memory of a fixed size.
#[derive(Debug)]
pub struct Journal {
    pub totals: TokenTotals,
    /// The last to end is at the back.
    ended: VecDeque<RequestView>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { totals: TokenTotals::default(), ended: VecDeque::with_capacity(MAX_REQUESTS) }
    }
}

impl Journal {
    pub fn end(&mut self, request: RequestView) {
        if self.ended.len() == MAX_REQUESTS {
            self.ended.pop_front();
        }
        self.ended.push_back(request);
    }

    /// A view of these blocks and of all live requests.
    pub fn view(
        &self,
        blocks: Vec<BlockCell>,
        live: impl Iterator<Item = RequestView>,
    ) -> EngineView {
        let mut live: Vec<RequestView> = live.collect();
        live.sort_unstable_by_key(|request| (request.state == RequestState::Waiting, request.id));
        live.truncate(MAX_REQUESTS);
        let ended = self.ended.iter().rev().cloned().collect();
        EngineView { totals: self.totals, blocks, live, ended }
    }
}
