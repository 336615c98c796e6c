//! Who holds which block: reference counts, and the free blocks in the order of reuse.

use crate::block::BlockId;
use crate::block_hash::BlockHash;
use crate::forgotten::Forgotten;
use crate::prefix_cache::PrefixCache;

/// Every operation takes constant time and allocates nothing, but for notes of lost names.
///
/// Blocks from `num_touched` on were never handed out, so their memory is not there yet: the operating
/// system gives it when it is first written.
pub(crate) struct BlockPool {
    /// One for each block table that holds the block; 0 means free.
    ref_counts: Vec<u32>,
    /// The block's name in `cache`; a free block keeps it, and its content, until it is allocated
    /// again.
    hashes: Vec<Option<BlockHash>>,
    /// The touched free blocks, circular through a sentinel at index `num_blocks`. Blocks without a
    /// name are reused first, the last freed of them foremost; then those with one, the longest
    /// unused foremost.
    previous: Vec<u32>,
    next: Vec<u32>,
    num_free: u32,
    /// Free blocks that are promised to block tables.
    num_reserved: u32,
    num_cached_free: u32,
    num_touched: u32,
    /// From so many touched blocks on, the longest unused prefix gives way before another is touched.
    /// Grows with each block that is computed again because it gave way.
    num_resident: u32,
    cache: PrefixCache,
    forgotten: Forgotten,
    /// Names that blocks have lost; `None` while nobody wants to know.
    lost_names: Option<Vec<BlockHash>>,
}

impl BlockPool {
    pub(crate) fn new(num_blocks: u32, num_resident: u32) -> Self {
        let sentinel = num_blocks;
        let length = num_blocks as usize;
        let num_resident = num_resident.min(num_blocks);
        Self {
            ref_counts: vec![0; length],
            hashes: vec![None; length],
            previous: vec![sentinel; length + 1],
            next: vec![sentinel; length + 1],
            num_free: num_blocks,
            num_reserved: 0,
            num_cached_free: 0,
            num_touched: 0,
            num_resident,
            cache: PrefixCache::with_capacity(length),
            forgotten: Forgotten::with_capacity((num_blocks - num_resident) as usize),
            lost_names: None,
        }
    }

    /// Promises free blocks, which [`allocate_reserved`](Self::allocate_reserved) hands out.
    pub(crate) fn reserve(&mut self, num_blocks: u32) {
        assert!(num_blocks <= self.num_available(), "{num_blocks} blocks are promised twice");
        self.num_reserved += num_blocks;
    }

    pub(crate) fn unreserve(&mut self, num_blocks: u32) {
        self.num_reserved -= num_blocks;
    }

    pub(crate) fn allocate_reserved(&mut self) -> BlockId {
        self.num_reserved -= 1;
        self.allocate().expect("reserved blocks are free")
    }

    /// A block that nobody was promised.
    pub(crate) fn allocate_available(&mut self) -> Option<BlockId> {
        if self.num_available() == 0 { None } else { self.allocate() }
    }

    /// A block of the caller's own; its old content and name are gone.
    fn allocate(&mut self) -> Option<BlockId> {
        let first = BlockId(self.next[self.sentinel()]);
        let hash = self.hashes.get(first.0 as usize).copied();
        let touches_another = match hash {
            Some(None) => false,
            Some(Some(_)) => self.num_touched < self.num_resident,
            None if self.num_touched < self.num_blocks() => true,
            None => return None,
        };
        let block = if touches_another {
            self.num_touched += 1;
            self.num_free -= 1;
            BlockId(self.num_touched - 1)
        } else {
            self.unlink(first);
            if let Some(hash) = hash.flatten() {
                self.unpublish(first);
                self.forgotten.insert(hash);
            }
            first
        };
        self.ref_counts[block.0 as usize] = 1;
        Some(block)
    }

    /// One more holder of a block that the cache named.
    pub(crate) fn share(&mut self, block: BlockId) {
        if self.ref_counts[block.0 as usize] == 0 {
            self.unlink(block);
        }
        self.ref_counts[block.0 as usize] += 1;
    }

    /// One holder less. Release a sequence's last block first, so that the tails of prefixes are
    /// reused first.
    pub(crate) fn release(&mut self, block: BlockId) {
        let ref_count = &mut self.ref_counts[block.0 as usize];
        assert!(*ref_count > 0, "block {} is released more often than it was taken", block.0);
        *ref_count -= 1;
        if *ref_count == 0 {
            self.link(block);
        }
    }

    /// Names a held block, unless another block has the name or this one has a name. Whether it was done.
    pub(crate) fn publish(&mut self, block: BlockId, hash: BlockHash) -> bool {
        assert!(self.ref_counts[block.0 as usize] > 0, "block {} is published while free", block.0);
        let name = &mut self.hashes[block.0 as usize];
        let is_new = name.is_none() && self.cache.insert(hash, block);
        if is_new {
            *name = Some(hash);
            if self.forgotten.remove(hash) {
                self.num_resident = self.num_blocks().min(self.num_resident + 1);
            }
        }
        is_new
    }

    /// Takes the name from a block that is not in the free list.
    pub(crate) fn unpublish(&mut self, block: BlockId) {
        if let Some(hash) = self.hashes[block.0 as usize].take() {
            self.cache.remove(hash);
            if let Some(lost) = &mut self.lost_names {
                lost.push(hash);
            }
        }
    }

    /// From now on lost names are noted.
    pub(crate) fn note_lost_names(&mut self) {
        self.lost_names = Some(Vec::new());
    }

    /// Those noted, for the caller to take.
    pub(crate) fn lost_names(&mut self) -> &mut Vec<BlockHash> {
        self.lost_names.get_or_insert_default()
    }

    /// Takes a name from whatever block has it.
    pub(crate) fn forget(&mut self, hash: BlockHash) {
        let Some(block) = self.cache.get(hash) else { return };
        if self.is_free(block) {
            // Without a name it is the next to be reused.
            self.unlink(block);
            self.unpublish(block);
            self.link(block);
        } else {
            self.unpublish(block);
        }
    }

    pub(crate) fn clear_cache(&mut self) {
        self.cache.clear();
        self.forgotten.clear();
        self.hashes.fill(None);
        self.num_cached_free = 0;
    }

    pub(crate) fn cache(&self) -> &PrefixCache {
        &self.cache
    }

    pub(crate) fn is_free(&self, block: BlockId) -> bool {
        self.ref_counts[block.0 as usize] == 0
    }

    /// Whether some block has this name.
    pub(crate) fn has_named(&self, hash: BlockHash) -> bool {
        self.cache.get(hash).is_some()
    }

    pub(crate) fn is_named(&self, block: BlockId, hash: BlockHash) -> bool {
        self.hash(block) == Some(hash)
    }

    pub(crate) fn hash(&self, block: BlockId) -> Option<BlockHash> {
        self.hashes[block.0 as usize]
    }

    pub(crate) fn num_holders(&self, block: BlockId) -> u32 {
        self.ref_counts[block.0 as usize]
    }

    pub(crate) fn num_blocks(&self) -> u32 {
        self.ref_counts.len() as u32
    }

    pub(crate) fn num_free(&self) -> u32 {
        self.num_free
    }

    /// Free and not promised.
    pub(crate) fn num_available(&self) -> u32 {
        self.num_free - self.num_reserved
    }

    pub(crate) fn num_cached_free(&self) -> u32 {
        self.num_cached_free
    }

    pub(crate) fn num_touched(&self) -> u32 {
        self.num_touched
    }

    /// For each block that was ever handed out: whether it is in use, and whether the cache names it.
    pub(crate) fn touched(&self) -> impl Iterator<Item = (bool, bool)> + '_ {
        let states = self.ref_counts.iter().zip(&self.hashes).take(self.num_touched as usize);
        states.map(|(&ref_count, hash)| (ref_count > 0, hash.is_some()))
    }

    fn sentinel(&self) -> usize {
        self.ref_counts.len()
    }

    fn unlink(&mut self, block: BlockId) {
        let (previous, next) = (self.previous[block.0 as usize], self.next[block.0 as usize]);
        self.next[previous as usize] = next;
        self.previous[next as usize] = previous;
        self.num_free -= 1;
        self.num_cached_free -= u32::from(self.hashes[block.0 as usize].is_some());
    }

    fn link(&mut self, block: BlockId) {
        let cached = self.hashes[block.0 as usize].is_some();
        let sentinel = self.sentinel();
        let (previous, next) = if cached {
            (self.previous[sentinel], sentinel as u32)
        } else {
            (sentinel as u32, self.next[sentinel])
        };
        self.next[previous as usize] = block.0;
        self.previous[next as usize] = block.0;
        self.previous[block.0 as usize] = previous;
        self.next[block.0 as usize] = next;
        self.num_free += 1;
        self.num_cached_free += u32::from(cached);
    }

    /// Invariants 1 to 3; `num_holders[block]` and `num_reserved` are counted from the block tables.
    pub(crate) fn check(&self, num_holders: &[u32], num_reserved: u32) -> Result<(), String> {
        if self.num_reserved != num_reserved || num_reserved > self.num_free {
            return Err(format!(
                "{} blocks are promised, {num_reserved} by the tables, {} are free",
                self.num_reserved, self.num_free
            ));
        }
        if self.ref_counts != num_holders {
            return Err(format!(
                "reference counts {:?}, but held {num_holders:?} times",
                self.ref_counts
            ));
        }
        let num_untouched = self.num_blocks() - self.num_touched;
        let (mut num_free, mut num_cached_free) = (num_untouched, 0);
        let mut block = self.next[self.sentinel()] as usize;
        while block != self.sentinel() {
            let is_touched = block < self.num_touched as usize;
            if self.ref_counts[block] != 0 || !is_touched || num_free == self.num_blocks() {
                return Err(format!("block {block} is in the free list but should not be"));
            }
            if self.previous[self.next[block] as usize] as usize != block {
                return Err(format!("the free list is broken after block {block}"));
            }
            let cached = self.hashes[block].is_some();
            if !cached && num_cached_free > 0 {
                return Err(format!("block {block} has no name but is freed after one that has"));
            }
            num_free += 1;
            num_cached_free += u32::from(cached);
            block = self.next[block] as usize;
        }
        let num_unheld = self.ref_counts.iter().filter(|&&count| count == 0).count();
        if (num_free, num_cached_free) != (self.num_free, self.num_cached_free)
            || num_free as usize != num_unheld
        {
            return Err(format!(
                "{num_free} blocks listed as free, {num_unheld} not held, {} counted",
                self.num_free
            ));
        }
        let mut num_named = 0;
        for (block, hash) in self.hashes.iter().enumerate() {
            let Some(hash) = hash else { continue };
            num_named += 1;
            if self.cache.get(*hash) != Some(BlockId(block as u32)) {
                return Err(format!("block {block} has a name that the cache gives to another"));
            }
        }
        if num_named != self.cache.num_blocks() {
            return Err("the cache names a block that does not have the name".to_owned());
        }
        Ok(())
    }
}
