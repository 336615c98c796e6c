//! A block of the KV cache by number, and the blocks of one sequence in order.

use std::ops::Deref;

#[derive(Copy, Clone, Eq, PartialEq, Hash, Ord, PartialOrd, Debug)]
pub struct BlockId(pub u32);

/// Block `i` holds positions `i * block_size ..`. Append-only while its sequence runs.
#[derive(Default, Debug)]
pub(crate) struct BlockTable {
    blocks: Vec<BlockId>,
}

impl BlockTable {
    pub(crate) fn push(&mut self, block: BlockId) {
        self.blocks.push(block);
    }

    pub(crate) fn pop(&mut self) -> Option<BlockId> {
        self.blocks.pop()
    }

    pub(crate) fn num_blocks(&self) -> u32 {
        self.blocks.len() as u32
    }
}

impl Deref for BlockTable {
    type Target = [BlockId];

    fn deref(&self) -> &[BlockId] {
        &self.blocks
    }
}
