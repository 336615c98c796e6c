//! The blocks of all pools at a glance: in order, some of them together.

use crate::block_pool::BlockPool;
use crate::scheduler::Scheduler;

/// Blocks with consecutive numbers, and how many of them are what; the others are free.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockCell {
    pub num_blocks: u32,
    pub num_used: u32,
    /// Not in use, but still named by the prefix cache.
    pub num_cached: u32,
}

impl Scheduler {
    /// At most `max_cells` cells, each of the same number of blocks but for the last. Takes time for each block that was
    /// ever handed out.
    pub fn block_map(&self, max_cells: u32) -> Vec<BlockCell> {
        let num_blocks: u32 = self.pools.iter().map(BlockPool::num_blocks).sum();
        let size = num_blocks.div_ceil(max_cells.max(1)).max(1);
        let mut cells = Vec::with_capacity(num_blocks.div_ceil(size) as usize);
        for pool in &self.pools {
            for (is_used, is_cached) in pool.touched() {
                let cell = open_cell(&mut cells, size);
                cell.num_blocks += 1;
                cell.num_used += u32::from(is_used);
                cell.num_cached += u32::from(is_cached && !is_used);
            }
            let mut num_left = pool.num_blocks() - pool.num_touched();
            while num_left > 0 {
                let cell = open_cell(&mut cells, size);
                let num_added = num_left.min(size - cell.num_blocks);
                cell.num_blocks += num_added;
                num_left -= num_added;
            }
        }
        cells
    }
}

/// The last cell, or a new one where that is full.
fn open_cell(cells: &mut Vec<BlockCell>, size: u32) -> &mut BlockCell {
    if cells.last().is_none_or(|cell| cell.num_blocks == size) {
        cells.push(BlockCell::default());
    }
    cells.last_mut().expect("one was pushed")
}
