//! The longest cached prefix that every group can serve: all its pages, those that its last window sees, or the
//! state at its end.

use crate::block::BlockId;
use crate::block_hash::BlockHash;
use crate::groups::Group;
use crate::scheduler::Scheduler;
use crate::sequence::Slot;

/// What a lookup found; reused by each.
#[derive(Default)]
pub(crate) struct CachedPrefix {
    /// In tokens; a multiple of the block size.
    pub(crate) num_tokens: u32,
    /// For each group of pages, those from its first visible position on.
    pages: Vec<Vec<BlockId>>,
    /// For each group of states.
    states: Vec<BlockId>,
}

impl Scheduler {
    /// Fills `cached_prefix`. Never finds the last token: the first sample needs its logits.
    pub(crate) fn find_cached_prefix(&mut self, slot: Slot) {
        let mut found = std::mem::take(&mut self.cached_prefix);
        found.num_tokens = 0;
        found.pages.resize_with(self.groups.paged.len(), Vec::new);
        found.pages.iter_mut().for_each(Vec::clear);
        found.states.clear();
        let block_size = self.config.block_size;
        let sequence = &mut self.sequences[slot];
        if self.config.enable_prefix_caching && !sequence.skip_prefix_cache {
            let num_tokens = sequence.num_tokens() - 1;
            sequence.extend_block_hashes(num_tokens, block_size);
            let hashes = &self.sequences[slot].block_hashes[..(num_tokens / block_size) as usize];
            let num_blocks = self.longest_prefix(hashes);
            found.num_tokens = num_blocks as u32 * block_size;
            self.collect(&hashes[..num_blocks], &mut found);
        }
        self.cached_prefix = found;
    }

    /// In blocks.
    fn longest_prefix(&self, hashes: &[BlockHash]) -> usize {
        let is_cached = |group: &Group, index: usize| self.cached(group, hashes[index]).is_some();
        let mut most = hashes.len();
        for group in &self.groups.paged {
            if !group.drops() {
                most = (0..most).find(|&index| !is_cached(group, index)).unwrap_or(most);
            }
        }
        // From there down: a missing page or state leaves only shorter prefixes.
        'shorter: while most > 0 {
            for group in &self.groups.recurrent {
                if !is_cached(group, most - 1) {
                    most -= 1;
                    continue 'shorter;
                }
            }
            for group in &self.groups.paged {
                if !group.drops() {
                    continue;
                }
                let missing = (self.first_page(group, most)..most).rev();
                if let Some(index) = missing.into_iter().find(|&index| !is_cached(group, index)) {
                    most = index;
                    continue 'shorter;
                }
            }
            break;
        }
        most
    }

    fn collect(&self, hashes: &[BlockHash], found: &mut CachedPrefix) {
        for (group, pages) in self.groups.paged.iter().zip(&mut found.pages) {
            let needed = &hashes[self.first_page(group, hashes.len())..];
            pages.extend(needed.iter().filter_map(|&hash| self.cached(group, hash)));
        }
        if let Some(&last) = hashes.last() {
            let states = self.groups.recurrent.iter();
            found.states.extend(states.filter_map(|group| self.cached(group, last)));
        }
    }

    /// Index of the first page that the token after so many blocks sees.
    fn first_page(&self, group: &Group, num_blocks: usize) -> usize {
        let block_size = self.config.block_size;
        (group.kind.first_visible(num_blocks as u32 * block_size) / block_size) as usize
    }

    fn cached(&self, group: &Group, hash: BlockHash) -> Option<BlockId> {
        self.pools[group.pool].cache().get(hash.in_group(group.number as usize))
    }

    /// Adds to `needs`, a number a pool: minus the pages found that others hold and keep, plus the states to read and to write.
    pub(crate) fn add_needs_of_found(&self, needs: &mut [u64]) {
        let found = &self.cached_prefix;
        for (group, pages) in self.groups.paged.iter().zip(&found.pages) {
            let pool = &self.pools[group.pool];
            let held_by_others = pages.iter().filter(|&&page| !pool.is_free(page)).count();
            needs[group.pool] -= if group.drops() { 0 } else { held_by_others as u64 };
        }
        for (index, group) in self.groups.recurrent.iter().enumerate() {
            let source = found.states.get(index);
            let takes_source = source.is_some_and(|&block| self.pools[group.pool].is_free(block));
            needs[group.pool] += 1 + u64::from(takes_source);
        }
    }

    /// Hands what was found to a sequence that holds nothing, with a state to write; its pages are to be promised next.
    pub(crate) fn adopt_cached_prefix(&mut self, slot: Slot) {
        let found = std::mem::take(&mut self.cached_prefix);
        let num_blocks = (found.num_tokens / self.config.block_size) as usize;
        let sequence = &mut self.sequences[slot];
        let tables = self.groups.paged.iter().zip(&mut sequence.block_tables);
        for ((group, table), pages) in tables.zip(&found.pages) {
            table.skip((num_blocks - pages.len()) as u32);
            for &page in pages {
                group.share_page(&mut self.pools[group.pool], page);
                table.push(page);
            }
            table.entitle(table.num_held());
        }
        // What was found leaves the free lists before anything is taken from them.
        let sources = self.groups.recurrent.iter().zip(&found.states);
        sources.for_each(|(group, &source)| self.pools[group.pool].share(source));
        for (index, group) in self.groups.recurrent.iter().enumerate() {
            let pool = &mut self.pools[group.pool];
            let target = pool.allocate_available().expect("the states were counted");
            sequence.states[index].begin(found.states.get(index).copied(), target);
        }
        sequence.num_scheduled_tokens = found.num_tokens;
        self.cached_prefix = found;
    }
}
