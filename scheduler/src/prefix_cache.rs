//! Which block holds which prefix.

use std::collections::HashMap;

use crate::block::BlockId;
use crate::block_hash::{BlockHash, BuildIntegerHasher};

/// At most one block for a hash: a second block with the same content stays without a name.
#[derive(Default)]
pub(crate) struct PrefixCache {
    blocks: HashMap<BlockHash, BlockId, BuildIntegerHasher>,
}

impl PrefixCache {
    /// Room for a name for each block, so that no insertion allocates.
    pub(crate) fn with_capacity(num_blocks: usize) -> Self {
        Self {
            blocks: HashMap::with_capacity_and_hasher(num_blocks, BuildIntegerHasher::default()),
        }
    }

    pub(crate) fn get(&self, hash: BlockHash) -> Option<BlockId> {
        self.blocks.get(&hash).copied()
    }

    /// False when another block has this name.
    pub(crate) fn insert(&mut self, hash: BlockHash, block: BlockId) -> bool {
        if self.blocks.contains_key(&hash) {
            return false;
        }
        self.blocks.insert(hash, block);
        true
    }

    pub(crate) fn remove(&mut self, hash: BlockHash) {
        self.blocks.remove(&hash);
    }

    pub(crate) fn clear(&mut self) {
        self.blocks.clear();
    }

    pub(crate) fn num_blocks(&self) -> usize {
        self.blocks.len()
    }
}
