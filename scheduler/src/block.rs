//! A block of the KV cache by number, and the blocks of one sequence in order.

#[derive(Copy, Clone, Eq, PartialEq, Hash, Ord, PartialOrd, Debug)]
pub struct BlockId(pub u32);

/// Block `i` holds positions `i * block_size ..`. Grows at the end and, where a group sees only the last
/// positions, shrinks at the beginning while its sequence runs.
#[derive(Default, Debug)]
pub(crate) struct BlockTable {
    /// The first `num_dropped` are no longer held.
    blocks: Vec<BlockId>,
    num_dropped: u32,
    /// Blocks that the sequence may hold without asking the pool again.
    num_entitled: u32,
    /// Blocks that the runner was told of, dropped ones included.
    num_sent: u32,
}

impl BlockTable {
    pub(crate) fn push(&mut self, block: BlockId) {
        self.blocks.push(block);
    }

    /// An empty table whose first blocks are never needed.
    pub(crate) fn skip(&mut self, num_blocks: u32) {
        self.blocks.resize(num_blocks as usize, BlockId(0));
        self.num_dropped = num_blocks;
    }

    /// The last held block.
    pub(crate) fn pop(&mut self) -> Option<BlockId> {
        if self.num_held() == 0 { None } else { self.blocks.pop() }
    }

    /// The first held block, where it lies before `index`.
    pub(crate) fn drop_before(&mut self, index: u32) -> Option<BlockId> {
        let (_, block) = self.held().next().filter(|&(first, _)| first < index)?;
        self.num_dropped += 1;
        Some(block)
    }

    /// Nothing held, nothing dropped.
    pub(crate) fn reset(&mut self) {
        self.blocks.clear();
        (self.num_dropped, self.num_entitled, self.num_sent) = (0, 0, 0);
    }

    /// Dropped ones included.
    pub(crate) fn num_blocks(&self) -> u32 {
        self.blocks.len() as u32
    }

    pub(crate) fn num_held(&self) -> u32 {
        self.num_blocks() - self.num_dropped
    }

    pub(crate) fn num_entitled(&self) -> u32 {
        self.num_entitled
    }

    /// Sets the entitlement; returns what it was.
    pub(crate) fn entitle(&mut self, num_blocks: u32) -> u32 {
        std::mem::replace(&mut self.num_entitled, num_blocks)
    }

    /// Blocks that wait in the pool for this table.
    pub(crate) fn num_reserved(&self) -> u32 {
        self.num_entitled - self.num_held()
    }

    /// Held blocks from index `first` on, with their index.
    pub(crate) fn held_from(&self, first: u32) -> impl Iterator<Item = (u32, BlockId)> + '_ {
        let first = first.max(self.num_dropped);
        let blocks = self.blocks.get(first as usize..).unwrap_or(&[]);
        (first..).zip(blocks.iter().copied())
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = (u32, BlockId)> + '_ {
        self.held_from(0)
    }

    /// Held blocks that the runner does not know of yet; from now on it does.
    pub(crate) fn send(&mut self) -> impl Iterator<Item = (u32, BlockId)> + '_ {
        let num_blocks = self.num_blocks();
        let first = std::mem::replace(&mut self.num_sent, num_blocks);
        self.held_from(first)
    }
}
