//! One sequence: its tokens, how far they are computed, and what it holds.

use std::collections::HashMap;
use std::ops::{Index, IndexMut};

use crate::block::BlockTable;
use crate::block_hash::{BlockHash, BuildIntegerHasher};
use crate::draft_tree::DraftTree;
use crate::output::{MAX_TOKENS_PER_STEP, Row};
use crate::queue::QueueKey;
use crate::request::{SequenceId, StopRule, TokenId};
use crate::state::StateTable;

pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) key: QueueKey,
    /// Whose it is.
    pub(crate) tenant: u32,
    /// None while it waits.
    pub(crate) row: Option<Row>,
    /// Its step failed: it runs alone until it has sampled again.
    pub(crate) suspect: bool,
    /// Prompt and accepted output.
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) num_prompt_tokens: u32,
    /// Prompt and output never grow past this: `max_tokens`, `max_model_len` or the pool.
    pub(crate) max_num_tokens: u32,
    /// Positions computed by steps that are known to be done.
    pub(crate) num_computed_tokens: u32,
    /// Positions computed by these and by the steps in flight.
    pub(crate) num_scheduled_tokens: u32,
    /// Tokens sampled by the steps in flight, if all their drafts are right.
    pub(crate) num_pending_tokens: u32,
    /// Guesses of the next tokens, to be verified by the next step.
    pub(crate) drafts: DraftTree,
    /// Guesses that the step in flight verifies.
    pub(crate) num_drafts_in_flight: u32,
    /// The most positions that were ever scheduled since admission: wrong drafts are counted out again, but their blocks
    /// stay.
    pub(crate) most_scheduled_tokens: u32,
    pub(crate) num_preemptions: u32,
    /// One for each group of pages.
    pub(crate) block_tables: Vec<BlockTable>,
    /// One for each group of states.
    pub(crate) states: Vec<StateTable>,
    /// Hashes of the first full blocks, as far as they were needed; they outlive a preemption.
    pub(crate) block_hashes: Vec<BlockHash>,
    /// Blocks taken from or offered to the prefix cache.
    pub(crate) num_published_blocks: u32,
    pub(crate) stop: StopRule,
    pub(crate) cache_salt: u64,
    pub(crate) skip_prefix_cache: bool,
}

impl Sequence {
    pub(crate) fn num_tokens(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Known and pending.
    pub(crate) fn num_total_tokens(&self) -> u32 {
        self.num_tokens() + self.num_pending_tokens
    }

    /// Positions that no wrong draft can take back.
    pub(crate) fn num_certain_tokens(&self) -> u32 {
        self.num_scheduled_tokens - self.num_drafts_in_flight
    }

    /// Tokens to compute before the next sample; 0 when the last sample is on its way, or drafts are.
    pub(crate) fn num_lacking_tokens(&self) -> u32 {
        if self.num_drafts_in_flight > 0 || self.num_total_tokens() >= self.max_num_tokens {
            0
        } else {
            self.num_total_tokens() - self.num_scheduled_tokens
        }
    }

    /// Drafts of a sequence without pending tokens: one more token is sampled after the last.
    pub(crate) fn num_possible_drafts(&self) -> u32 {
        (self.max_num_tokens - self.num_tokens() - 1).min(MAX_TOKENS_PER_STEP as u32 - 1)
    }

    /// Names all full blocks within the first `num_tokens` known tokens.
    pub(crate) fn extend_block_hashes(&mut self, num_tokens: u32, block_size: u32) {
        let block_size = block_size as usize;
        let known = &self.tokens[..num_tokens as usize];
        for block in known.chunks_exact(block_size).skip(self.block_hashes.len()) {
            let parent = match self.block_hashes.last() {
                Some(&hash) => hash,
                None => BlockHash::root(self.cache_salt),
            };
            self.block_hashes.push(parent.child(block));
        }
    }
}

/// Where a sequence is stored; given out again after the sequence is gone.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub(crate) struct Slot(pub(crate) u32);

/// All unfinished sequences.
#[derive(Default)]
pub(crate) struct Sequences {
    slots: Vec<Option<Sequence>>,
    /// Grows when a slot's sequence leaves or is preempted: results of older epochs are stale.
    epochs: Vec<u32>,
    free: Vec<Slot>,
    by_id: HashMap<SequenceId, Slot, BuildIntegerHasher>,
}

impl Sequences {
    pub(crate) fn insert(&mut self, sequence: Sequence) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.epochs.push(0);
            Slot(self.slots.len() as u32 - 1)
        });
        self.by_id.insert(sequence.id, slot);
        self.slots[slot.0 as usize] = Some(sequence);
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        let id = self[slot].id;
        self.by_id.remove(&id);
        self.slots[slot.0 as usize] = None;
        self.start_epoch(slot);
        self.free.push(slot);
    }

    pub(crate) fn find(&self, id: SequenceId) -> Option<Slot> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn epoch(&self, slot: Slot) -> u32 {
        self.epochs[slot.0 as usize]
    }

    pub(crate) fn start_epoch(&mut self, slot: Slot) {
        let epoch = &mut self.epochs[slot.0 as usize];
        *epoch = epoch.wrapping_add(1);
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }
}

impl Index<Slot> for Sequences {
    type Output = Sequence;

    fn index(&self, slot: Slot) -> &Sequence {
        self.slots[slot.0 as usize].as_ref().expect("lists name only slots that are taken")
    }
}

impl IndexMut<Slot> for Sequences {
    fn index_mut(&mut self, slot: Slot) -> &mut Sequence {
        self.slots[slot.0 as usize].as_mut().expect("lists name only slots that are taken")
    }
}
