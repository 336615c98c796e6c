//! What a sequence holds in each cache group: how many blocks it is promised, when it takes them, and when it needs
//! them no more.

use crate::block::BlockId;
use crate::block_hash::BlockHash;
use crate::block_pool::BlockPool;
use crate::config::{CacheKind, SchedulerConfig};
use crate::output::StateSegment;
use crate::scheduler::Scheduler;
use crate::sequence::{Sequence, Slot};

/// A cache group, by its number in the configuration.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Group {
    pub(crate) number: u32,
    pub(crate) kind: CacheKind,
    pub(crate) pool: usize,
}

impl Group {
    /// Whether tables of this group give back pages while their sequences run.
    pub(crate) fn drops(&self) -> bool {
        self.kind != CacheKind::FullAttention
    }

    /// One more table holds a cached page. Who drops a page is promised another in its place, which a page that others
    /// hold too does not free: so where pages are dropped, each share has a promise of its own.
    pub(crate) fn share_page(&self, pool: &mut BlockPool, page: BlockId) {
        if self.drops() && !pool.is_free(page) {
            pool.reserve(1);
        }
        pool.share(page);
    }

    fn release_page(&self, pool: &mut BlockPool, page: BlockId) {
        pool.release(page);
        if self.drops() && !pool.is_free(page) {
            pool.unreserve(1);
        }
    }
}

/// The groups, those of pages and those of states: in a sequence each has its table, in the same order.
pub(crate) struct Groups {
    pub(crate) paged: Vec<Group>,
    pub(crate) recurrent: Vec<Group>,
    /// Whether blocks are given back while a sequence runs.
    pub(crate) any_drop: bool,
}

impl Groups {
    pub(crate) fn new(config: &SchedulerConfig) -> Self {
        let groups = (0..).zip(&config.cache_groups).map(|(number, group)| Group {
            number,
            kind: group.kind,
            pool: group.pool as usize,
        });
        let (recurrent, paged): (Vec<Group>, Vec<Group>) =
            groups.partition(|group| group.kind == CacheKind::RecurrentState);
        let any_drop = paged.iter().any(Group::drops);
        Self { any_drop: any_drop || !recurrent.is_empty(), paged, recurrent }
    }
}

impl Scheduler {
    /// Gives back the blocks that no step to come reads: those behind a window, and replaced states. Only between
    /// steps: within one, another row would write them before they are read.
    pub(crate) fn drop_unneeded(&mut self) {
        if !self.groups.any_drop {
            return;
        }
        for index in 0..self.running.len() {
            let sequence = &mut self.sequences[self.running[index]];
            let (start, end) = (sequence.num_certain_tokens(), sequence.num_total_tokens());
            let at_once = self.config.max_num_tokens_at_once().min((end - start).max(1));
            for (group, table) in self.groups.paged.iter().zip(&mut sequence.block_tables) {
                if !group.drops() {
                    continue;
                }
                let pool = &mut self.pools[group.pool];
                let num_reserved = table.num_reserved();
                let first = group.kind.first_visible(start) / self.config.block_size;
                while let Some(block) = table.drop_before(first) {
                    group.release_page(pool, block);
                }
                let range = (start, end);
                let held = group.kind.num_blocks_held(range, at_once, self.config.block_size);
                table.entitle(held.min(table.num_entitled()).max(table.num_held()));
                pool.unreserve(num_reserved);
                pool.reserve(table.num_reserved());
            }
            for (group, state) in self.groups.recurrent.iter().zip(&mut sequence.states) {
                while let Some(block) = state.pop_leaving() {
                    self.pools[group.pool].release(block);
                }
            }
        }
    }

    /// Promises a running sequence the pages that its positions below `end` need; promises none when there are too
    /// few.
    pub(crate) fn entitle(&mut self, slot: Slot, end: u32) -> bool {
        let sequence = &mut self.sequences[slot];
        let range = (sequence.num_scheduled_tokens, end);
        let at_once = self.config.max_num_tokens_at_once().min(end - range.0);
        let block_size = self.config.block_size;
        let missing = |group: &Group, num_entitled: u32| {
            group.kind.num_blocks_held(range, at_once, block_size).saturating_sub(num_entitled)
        };
        let tables = || self.groups.paged.iter().zip(&sequence.block_tables);
        let fits = self.pools.iter().enumerate().all(|(index, pool)| {
            let of_pool = tables().filter(|(group, _)| group.pool == index);
            let missing = of_pool.map(|(group, table)| missing(group, table.num_entitled()));
            missing.sum::<u32>() <= pool.num_available()
        });
        if !fits {
            return false;
        }
        for (group, table) in self.groups.paged.iter().zip(&mut sequence.block_tables) {
            let missing = missing(group, table.num_entitled());
            table.entitle(table.num_entitled() + missing);
            self.pools[group.pool].reserve(missing);
        }
        true
    }

    /// Takes the promised pages for positions below `end`; where all positions are kept, all that were promised.
    pub(crate) fn take_pages(&mut self, slot: Slot, end: u32) {
        let num_blocks = end.div_ceil(self.config.block_size);
        let sequence = &mut self.sequences[slot];
        for (group, table) in self.groups.paged.iter().zip(&mut sequence.block_tables) {
            let num_blocks = match group.kind {
                CacheKind::FullAttention => table.num_entitled(),
                _ => num_blocks,
            };
            while table.num_blocks() < num_blocks {
                table.push(self.pools[group.pool].allocate_reserved());
            }
        }
    }

    /// Moves the states of a sequence over the tokens from `start` to `end`, with a snapshot at the last block boundary
    /// among them where that is of use and a block is free. After each draft the state is kept: the next step goes on from
    /// the last right one.
    pub(crate) fn move_states(
        &mut self,
        slot: Slot,
        (start, end): (u32, u32),
        num_drafts: u32,
        segments: &mut Vec<StateSegment>,
    ) {
        let boundary = end / self.config.block_size * self.config.block_size;
        let may_keep = self.config.enable_prefix_caching && boundary > start;
        let sequence = &mut self.sequences[slot];
        for (index, group) in self.groups.recurrent.iter().enumerate() {
            let pool = &mut self.pools[group.pool];
            let mut snapshot = None;
            let num_wanted = num_drafts * (self.groups.recurrent.len() - index) as u32;
            if may_keep && pool.num_available() > num_wanted {
                let hash = sequence.known_hash(boundary, self.config.block_size);
                let has_it =
                    hash.is_some_and(|hash| pool.has_named(hash.in_group(group.number as usize)));
                let fresh = if has_it { None } else { pool.allocate_available() };
                snapshot = fresh.map(|block| (boundary, block));
            }
            let state = &mut sequence.states[index];
            state.schedule(group.number, (start, end), snapshot, segments);
            for _ in 0..num_drafts {
                let block = pool.allocate_available().expect("the states were counted");
                state.schedule_draft(group.number, block, segments);
            }
        }
    }

    /// Drafts that there are states for.
    pub(crate) fn num_available_states(&self) -> u32 {
        let pools = self.groups.recurrent.iter().map(|group| {
            let groups = self.groups.recurrent.iter().filter(|other| other.pool == group.pool);
            self.pools[group.pool].num_available() / groups.count() as u32
        });
        pools.min().unwrap_or(u32::MAX)
    }

    /// Goes back to the state after the right drafts.
    pub(crate) fn settle_drafts(&mut self, slot: Slot, num_accepted: u32) {
        for state in &mut self.sequences[slot].states {
            state.settle_drafts(num_accepted as usize);
        }
    }

    /// Names the snapshots whose tokens are all known. Not within the step that writes them: another row of it would
    /// read too early.
    pub(crate) fn publish_states(&mut self, slot: Slot) {
        let sequence = &mut self.sequences[slot];
        for (index, group) in self.groups.recurrent.iter().enumerate() {
            let num_known = sequence.num_tokens();
            let Some((boundary, block)) = sequence.states[index].take_unnamed(num_known) else {
                continue;
            };
            let hash = sequence
                .known_hash(boundary, self.config.block_size)
                .expect("all its tokens are known")
                .in_group(group.number as usize);
            let pool = &mut self.pools[group.pool];
            let _: bool = pool.publish(block, hash);
            // Of an answer the last snapshot is enough: others share prompts.
            if boundary > sequence.num_prompt_tokens
                && let Some((hash, block)) = sequence.states[index].replace_in_output(hash, block)
                && pool.is_named(block, hash)
            {
                pool.forget(hash);
            }
        }
    }

    /// Everything that a sequence holds.
    pub(crate) fn release_blocks(&mut self, slot: Slot) {
        let sequence = &mut self.sequences[slot];
        for (group, table) in self.groups.paged.iter().zip(&mut sequence.block_tables) {
            let pool = &mut self.pools[group.pool];
            pool.unreserve(table.num_reserved());
            while let Some(block) = table.pop() {
                group.release_page(pool, block);
            }
            table.reset();
        }
        for (group, state) in self.groups.recurrent.iter().zip(&mut sequence.states) {
            while let Some(block) = state.pop() {
                self.pools[group.pool].release(block);
            }
        }
    }

    /// What this sequence computed or read is not to be trusted, also where it is no longer held.
    pub(crate) fn forget_blocks(&mut self, slot: Slot) {
        let sequence = &self.sequences[slot];
        for hash in sequence.block_hashes.iter().take(sequence.num_published_blocks as usize) {
            let groups = self.groups.paged.iter().chain(&self.groups.recurrent);
            groups.for_each(|group| {
                self.pools[group.pool].forget(hash.in_group(group.number as usize));
            });
        }
    }

    /// Adds to `needs`, a number a pool, the pages that the sequence needs to grow to `end` tokens.
    pub(crate) fn add_needs(&self, slot: Slot, (start, end): (u32, u32), needs: &mut [u64]) {
        let sequence = &self.sequences[slot];
        let num_lacking = sequence.num_total_tokens().saturating_sub(start);
        let at_once = self.config.max_num_tokens_at_once().min(num_lacking.max(1));
        for (group, table) in self.groups.paged.iter().zip(&sequence.block_tables) {
            let held = group.kind.num_blocks_held((start, end), at_once, self.config.block_size);
            needs[group.pool] += u64::from(held.saturating_sub(table.num_entitled()));
        }
    }
}

impl Sequence {
    /// The name of the block that ends before position `boundary`, if its tokens are known.
    fn known_hash(&mut self, boundary: u32, block_size: u32) -> Option<BlockHash> {
        if boundary > self.num_tokens() {
            return None;
        }
        self.extend_block_hashes(boundary, block_size);
        self.block_hashes.get((boundary / block_size) as usize - 1).copied()
    }
}
