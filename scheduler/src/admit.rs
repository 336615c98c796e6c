//! Who may start: a waiting sequence whose blocks, and those that the running will need, are free.

use crate::output::Admitted;
use crate::scheduler::{Plan, Scheduler};
use crate::sequence::{Sequence, Slot};

/// Which part of their output limit sequences are expected to reach, in thousandths.
///
/// Falls slowly while memory suffices, and jumps up when a sequence had to be preempted.
pub(crate) struct AdmissionRatio(u32);

impl Default for AdmissionRatio {
    fn default() -> Self {
        Self(700)
    }
}

impl AdmissionRatio {
    const LEAST: u32 = 100;
    const MOST: u32 = 1000;
    /// Limits above this say nothing about the length of the output.
    const MAX_EXPECTED_TOKENS: u32 = 4096;

    pub(crate) fn decay(&mut self) {
        self.0 = (self.0 - 1).max(Self::LEAST);
    }

    pub(crate) fn raise(&mut self) {
        self.0 = self.0.midpoint(Self::MOST);
    }

    /// Blocks of one cache group that the sequence is expected to hold in the end.
    fn num_expected_blocks(&self, sequence: &Sequence, block_size: u32) -> u32 {
        let num_left = sequence.max_num_tokens - sequence.num_total_tokens();
        let num_expected = num_left.min(Self::MAX_EXPECTED_TOKENS) * self.0 / Self::MOST;
        (sequence.num_total_tokens() + num_expected).div_ceil(block_size)
    }
}

impl Scheduler {
    /// In order; the first that does not fit stops the rest, so that none is overtaken for ever.
    pub(crate) fn admit_waiting(&mut self, plan: &mut Plan) {
        if self.waiting.is_empty() || plan.token_budget == 0 || self.free_rows.is_empty() {
            return;
        }
        let mut num_reserved: u64 =
            self.running.iter().map(|&slot| self.num_blocks_to_come(slot)).sum();
        while let Some(slot) = self.waiting.first() {
            if plan.token_budget == 0 || !self.try_admit(plan, slot, num_reserved) {
                return;
            }
            num_reserved += self.num_blocks_to_come(slot);
            self.schedule_sequence(plan, slot, 0);
        }
    }

    /// One suspect, alone: the rest waits or makes room.
    pub(crate) fn schedule_suspect(&mut self, plan: &mut Plan) {
        let is_suspect = |slot: &Slot| self.sequences[*slot].suspect;
        if let Some(slot) = self.running.iter().copied().find(is_suspect) {
            let num_blocks = self.sequences[slot].num_blocks();
            self.schedule_sequence(plan, slot, num_blocks);
            return;
        }
        let slot = self.waiting.iter().find(is_suspect).expect("a suspect runs or waits");
        while !self.try_admit(plan, slot, 0) {
            let victim = *self.running.last().expect("a sequence that is alone always fits");
            self.preempt(victim);
        }
        self.schedule_sequence(plan, slot, 0);
    }

    /// Moves a waiting sequence to the running ones, with a row, its cached prefix and blocks for
    /// all its tokens.
    ///
    /// `num_reserved`: free blocks to leave for the running. One that would run alone needs no more
    /// than its tokens take.
    fn try_admit(&mut self, plan: &mut Plan, slot: Slot, num_reserved: u64) -> bool {
        if self.free_rows.is_empty() {
            return false;
        }
        let num_cached_blocks = self.find_cached_prefix(slot);
        let num_to_come = self.num_blocks_to_come(slot);
        let sequence = &self.sequences[slot];
        let num_groups = sequence.block_tables.len() as u32;
        let num_tokens = sequence.num_tokens();
        let num_held_by_others =
            self.found_blocks.iter().filter(|&&block| !self.pool.is_free(block)).count() as u64;
        let num_prompt_blocks = u64::from(num_tokens.div_ceil(self.config.block_size) * num_groups);
        let num_taken = num_prompt_blocks - num_held_by_others;
        let num_needed = if self.running.is_empty() || sequence.suspect {
            num_taken
        } else {
            num_to_come - num_held_by_others + num_reserved
        };
        if num_needed > u64::from(self.pool.num_free()) {
            return false;
        }
        self.adopt_cached_prefix(slot);
        assert!(self.grow_block_tables(slot, num_tokens), "the blocks were counted");
        self.start(plan, slot, num_cached_blocks);
        true
    }

    fn start(&mut self, plan: &mut Plan, slot: Slot, num_cached_blocks: u32) {
        let row = self.free_rows.pop().expect("a free row was seen");
        let sequence = &mut self.sequences[slot];
        let num_cached_tokens = num_cached_blocks * self.config.block_size;
        sequence.row = Some(row);
        sequence.num_published_blocks = num_cached_blocks;
        sequence.num_scheduled_tokens = num_cached_tokens;
        sequence.num_computed_tokens = num_cached_tokens;
        if sequence.num_preemptions == 0
            && self.config.enable_prefix_caching
            && !sequence.skip_prefix_cache
        {
            self.prefix_cache_queries += u64::from(sequence.num_tokens());
            self.prefix_cache_hits += u64::from(num_cached_tokens);
        }
        plan.output.admitted.push(Admitted { id: sequence.id, row, num_cached_tokens });
        let key = sequence.key;
        self.waiting.remove(key);
        let index = self.running.partition_point(|&other| self.sequences[other].key < key);
        self.running.insert(index, slot);
    }

    /// Fills `found_blocks`. Never finds the last token: the first sample needs its logits.
    fn find_cached_prefix(&mut self, slot: Slot) -> u32 {
        self.found_blocks.clear();
        let sequence = &mut self.sequences[slot];
        if !self.config.enable_prefix_caching || sequence.skip_prefix_cache {
            return 0;
        }
        let num_tokens = sequence.num_tokens() - 1;
        sequence.extend_block_hashes(num_tokens, self.config.block_size);
        let num_full_blocks = (num_tokens / self.config.block_size) as usize;
        self.pool.cache().longest_prefix(
            &sequence.block_hashes[..num_full_blocks],
            sequence.block_tables.len(),
            &mut self.found_blocks,
        )
    }

    fn adopt_cached_prefix(&mut self, slot: Slot) {
        let tables = &mut self.sequences[slot].block_tables;
        for blocks in self.found_blocks.chunks_exact(tables.len()) {
            for (table, &block) in tables.iter_mut().zip(blocks) {
                self.pool.share(block);
                table.push(block);
            }
        }
    }

    /// Blocks that the sequence is expected to take beyond those it holds.
    fn num_blocks_to_come(&self, slot: Slot) -> u64 {
        let sequence = &self.sequences[slot];
        let num_expected =
            self.admission_ratio.num_expected_blocks(sequence, self.config.block_size);
        u64::from(num_expected.saturating_sub(sequence.num_blocks()))
            * sequence.block_tables.len() as u64
    }
}
