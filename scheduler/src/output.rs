//! What goes out to the runner, and what comes back from it.

use std::fmt;
use std::ops::{Deref, Range};

use crate::block::BlockId;
use crate::draft_tree::is_chain;
use crate::request::{FinishReason, SequenceId, TokenId};

/// The place of a running sequence in every table of the device, from admission to its end or
/// preemption.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Ord, PartialOrd, Debug)]
pub struct Row(pub u32);

/// Counts up by one for each step.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Ord, PartialOrd, Debug)]
pub struct StepId(pub u64);

/// One step. The runner applies, in this order: `freed_rows`, `admitted`, `new_blocks`,
/// `block_copies`, the forward pass.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct SchedulerOutput {
    pub step: StepId,
    /// Running ones first (those that lack one token before the rest), then the admitted; between prompts that run those
    /// whose tenants go before them.
    pub sequences: Vec<ScheduledSequence>,
    /// The blocks that each sequence's tables grow by, flat; see [`ScheduledSequence::new_blocks`].
    pub new_blocks: Vec<NewBlock>,
    /// How each sequence's recurrent states move, flat; see [`ScheduledSequence::state_segments`].
    pub state_segments: Vec<StateSegment>,
    /// Guesses, flat: [`ScheduledSequence::num_drafts`] of each sequence.
    pub draft_tokens: Vec<TokenId>,
    /// For each of these which guess of its sequence it follows, counted from 1; 0: the known tokens. They have a place each,
    /// in this order, however they branch: the runner moves the right ones to where the known tokens go on.
    pub draft_parents: Vec<u8>,
    /// Sequences that got a row in this step, new or resumed after preemption, in the order of
    /// `sequences`.
    pub admitted: Vec<Admitted>,
    pub block_copies: Vec<BlockCopy>,
    /// Rows released since the last step. One may be given out again in `admitted`.
    pub freed_rows: Vec<Row>,
}

impl SchedulerOutput {
    /// Tokens that this step computes.
    pub fn num_tokens(&self) -> u32 {
        self.sequences.iter().map(|sequence| sequence.num_tokens).sum()
    }

    /// Each sequence with its guesses, and what those follow.
    pub fn with_drafts(&self) -> impl Iterator<Item = (&ScheduledSequence, &[TokenId], &[u8])> {
        let mut first = 0;
        self.sequences.iter().map(move |sequence| {
            let own = first..first + sequence.num_drafts as usize;
            first = own.end;
            (sequence, &self.draft_tokens[own.clone()], &self.draft_parents[own])
        })
    }

    /// Whether some sequence's guesses are no chain.
    pub fn has_trees(&self) -> bool {
        self.with_drafts().any(|(_, _, parents)| !is_chain(parents))
    }

    pub fn new_blocks_of(&self, sequence: &ScheduledSequence) -> &[NewBlock] {
        &self.new_blocks[sequence.new_blocks.start as usize..sequence.new_blocks.end as usize]
    }

    /// Group after group; in a group they follow each other, and their tokens are those of the sequence.
    pub fn state_segments_of(&self, sequence: &ScheduledSequence) -> &[StateSegment] {
        let range = &sequence.state_segments;
        &self.state_segments[range.start as usize..range.end as usize]
    }
}

/// An entry of a block table.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct NewBlock {
    /// Index in [`SchedulerConfig::cache_groups`](crate::SchedulerConfig::cache_groups).
    pub group: u32,
    /// Index in the table: the block holds positions `index * block_size ..`.
    pub index: u32,
    pub block: BlockId,
}

/// Some tokens of a step and the states before and after them, in one group. Within a step no other sequence reads or
/// writes `to`, and none writes `from`.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct StateSegment {
    /// Index in [`SchedulerConfig::cache_groups`](crate::SchedulerConfig::cache_groups).
    pub group: u32,
    /// `None`: the sequence begins.
    pub from: Option<BlockId>,
    pub to: BlockId,
    /// At least 1.
    pub num_tokens: u32,
}

#[derive(Clone, Eq, PartialEq, Debug)]
pub struct ScheduledSequence {
    pub id: SequenceId,
    pub row: Row,
    /// The first position computed in this step; positions before it are in the cache or in earlier
    /// steps.
    pub start: u32,
    pub num_tokens: u32,
    /// How many of the last of these tokens are guesses. The runner verifies them, and returns those that are right and
    /// one more.
    pub num_drafts: u32,
    /// How many of the last of these tokens are sampled by a step still in flight (0 or 1): the
    /// row's last sample.
    pub num_unknown_tokens: u32,
    /// Range in [`SchedulerOutput::new_blocks`]; for an admitted row whole tables, cached blocks
    /// included, but none that lies before a window.
    pub new_blocks: Range<u32>,
    /// Range in [`SchedulerOutput::state_segments`].
    pub state_segments: Range<u32>,
    /// This step computes the last token of the sequence, so it samples the next.
    pub samples: bool,
    /// Output tokens before this sample, pending ones included: the counter of the sampler.
    pub num_output_tokens: u32,
}

/// The runner (re)initialises `row` from [`Scheduler::tokens`](crate::Scheduler::tokens), with
/// empty block tables.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Admitted {
    pub id: SequenceId,
    pub row: Row,
    /// Tokens whose keys, values and states come from the prefix cache.
    pub num_cached_tokens: u32,
}

#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct BlockCopy {
    pub from: BlockId,
    pub to: BlockId,
}

/// The result of a step.
#[derive(Clone, Eq, PartialEq, Debug)]
pub struct StepOutput {
    pub step: StepId,
    /// One for each scheduled sequence, in the same order.
    pub sequences: Vec<SampledSequence>,
}

#[derive(Copy, Clone, Eq, PartialEq, Default, Debug)]
pub struct SampledSequence {
    /// Empty when the step does not sample for this sequence.
    pub tokens: TokenList,
    /// The logits are not finite.
    pub failed: bool,
}

/// What a step did to a sequence that the caller waits for.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct SequenceEvent {
    pub id: SequenceId,
    /// Index in [`StepOutput::sequences`], for what the runner returned beside the tokens.
    pub index_in_step: Option<u32>,
    /// Accepted tokens; those after a stop are cut off, the stopping one is kept.
    pub new_tokens: TokenList,
    pub finish: Option<FinishReason>,
    /// Guesses that the step verified, and how many of them were right.
    pub num_drafts: u32,
    pub num_right_drafts: u32,
}

/// The most tokens that a step can add to a sequence: one sample and seven drafts.
pub const MAX_TOKENS_PER_STEP: usize = 8;

/// A few tokens, in place.
#[derive(Copy, Clone, Default)]
pub struct TokenList {
    num_tokens: u8,
    tokens: [TokenId; MAX_TOKENS_PER_STEP],
}

impl TokenList {
    pub const EMPTY: Self = Self { num_tokens: 0, tokens: [0; MAX_TOKENS_PER_STEP] };

    pub fn one(token: TokenId) -> Self {
        let mut list = Self::EMPTY;
        list.push(token);
        list
    }

    /// Panics when [`MAX_TOKENS_PER_STEP`] are there already.
    pub fn push(&mut self, token: TokenId) {
        self.tokens[usize::from(self.num_tokens)] = token;
        self.num_tokens += 1;
    }
}

impl Deref for TokenList {
    type Target = [TokenId];

    fn deref(&self) -> &[TokenId] {
        &self.tokens[..usize::from(self.num_tokens)]
    }
}

impl FromIterator<TokenId> for TokenList {
    fn from_iter<I: IntoIterator<Item = TokenId>>(tokens: I) -> Self {
        let mut list = Self::EMPTY;
        tokens.into_iter().for_each(|token| list.push(token));
        list
    }
}

impl PartialEq for TokenList {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for TokenList {}

impl fmt::Debug for TokenList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// Counts for metrics, blocks of all pools together; the last four only grow.
#[derive(Copy, Clone, Eq, PartialEq, Default, Debug)]
pub struct SchedulerStats {
    pub num_running: u32,
    pub num_waiting: u32,
    pub num_blocks: u32,
    /// Blocks held by running sequences.
    pub num_used_blocks: u32,
    /// Free blocks that still hold a cached prefix.
    pub num_cached_free_blocks: u32,
    /// Blocks that were handed out at least once: what of the KV cache takes memory. Only grows.
    pub num_touched_blocks: u32,
    /// Tokens looked up in the prefix cache, at the first admission of each sequence.
    pub prefix_cache_queries: u64,
    /// Tokens of these that were found.
    pub prefix_cache_hits: u64,
    pub num_preemptions: u64,
    /// Of these, those that made room for another tenant.
    pub num_preemptions_for_tenants: u64,
    pub drafts: DraftStats,
}

/// What became of drafts, of all sequences or of one; only grows.
#[derive(Copy, Clone, Eq, PartialEq, Default, Debug)]
pub struct DraftStats {
    /// Times that a step verified drafts of a sequence.
    pub num_verified: u64,
    /// Tokens of these.
    pub num_tokens: u64,
    /// How many first drafts were right, how many second ones, and so on.
    pub num_right: [u64; MAX_TOKENS_PER_STEP - 1],
}

impl DraftStats {
    /// One sequence's drafts in a step, of which the first `num_right` are right. None: nothing.
    pub fn count(&mut self, num_drafts: u32, num_right: u32) {
        self.num_verified += u64::from(num_drafts > 0);
        self.num_tokens += u64::from(num_drafts);
        self.num_right[..num_right as usize].iter_mut().for_each(|count| *count += 1);
    }

    /// What became of other drafts, too.
    pub fn add(&mut self, others: &Self) {
        self.num_verified += others.num_verified;
        self.num_tokens += others.num_tokens;
        self.num_right.iter_mut().zip(others.num_right).for_each(|(count, more)| *count += more);
    }
}
