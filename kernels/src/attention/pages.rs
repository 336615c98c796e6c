//! Where the keys and values of a sequence lie: chunks of positions as strips or pieces of blocks.

use std::ops::Range;

use super::kernels::{CHUNK, STRIP, STRIPS};
use super::tile::Tile;
use crate::cpu::{CACHE_LINE, prefetch_lines};

/// A chunk whose strips do not straddle blocks: where the keys (channel by channel) and the values (position by
/// position) of each strip start.
pub(super) struct Strips {
    pub keys: [*const u8; STRIPS],
    pub values: [*const u8; STRIPS],
}

impl Strips {
    /// The chunk that holds `positions`. A strip without any of them is given as the nearest that has.
    pub(super) fn of(tile: &Tile, positions: &Range<usize>) -> Self {
        let block_size = tile.kv.block_size();
        let base = positions.start / CHUNK * CHUNK;
        let first = positions.start / STRIP * STRIP;
        let last = (positions.end - 1) / STRIP * STRIP;
        let mut strips =
            Self { keys: [std::ptr::null(); STRIPS], values: [std::ptr::null(); STRIPS] };
        for index in 0..STRIPS {
            let position = (base + index * STRIP).clamp(first, last);
            let (entry, offset) = (position / block_size, position % block_size);
            let block = tile.block_table[entry] as usize;
            [strips.keys[index], strips.values[index]] =
                tile.kv.pointers(block, tile.kv_head, offset);
        }
        strips
    }

    /// Asks for the values of all positions of the chunk but those of `done`, relative to its start.
    pub(super) fn prefetch_values_outside(&self, done: &Range<usize>, row_bytes: usize) {
        for position in (0..done.start).chain(done.end..CHUNK) {
            let row = self.values[position / STRIP].wrapping_add(position % STRIP * row_bytes);
            prefetch_lines(row, row_bytes);
        }
    }
}

/// Calls `piece(first position, number of positions, [keys, values])` for each run of positions inside one block.
pub(super) fn for_each_piece(
    tile: &Tile,
    positions: Range<usize>,
    mut piece: impl FnMut(usize, usize, [*const u8; 2]),
) {
    let block_size = tile.kv.block_size();
    let mut position = positions.start;
    while position < positions.end {
        let moved = tile.moved.filter(|&(first, _)| position >= first);
        let places = moved.map(|(first, places)| &places[position - first..]);
        let place = places.map_or(position, |places| places[0] as usize);
        let (index, offset) = (place / block_size, place % block_size);
        let most = (block_size - offset).min(positions.end - position);
        let len = match places {
            Some(places) => run_len(&places[..most]),
            None => most.min(tile.first_moved() - position),
        };
        let block = tile.block_table[index] as usize;
        piece(position, len, tile.kv.pointers(block, tile.kv_head, offset));
        position += len;
    }
}

/// How many of the first numbers follow one another.
fn run_len(places: &[u32]) -> usize {
    let follows = |pair: &&[u32]| pair[0] + 1 == pair[1];
    1 + places.windows(2).take_while(follows).count()
}

/// Asks for keys and values ahead of their use: blocks lie anywhere, so the hardware cannot guess.
pub(super) fn prefetch(tile: &Tile, positions: Range<usize>) {
    let (head_dim, size) = (tile.spec.head_dim, tile.kv.dtype().size());
    let channel_bytes = tile.kv.block_size() * size;
    for_each_piece(tile, positions, |_, len, [keys, values]| {
        if channel_bytes > CACHE_LINE {
            for channel in 0..head_dim {
                prefetch_lines(keys.wrapping_add(channel * channel_bytes), len * size);
            }
        } else {
            prefetch_lines(keys, head_dim * channel_bytes);
        }
        prefetch_lines(values, len * head_dim * size);
    });
}
