//! On the CPU: ranks see each other's memory. Each rank sums its share of the numbers, for all.

use std::ops::Range;

use super::RankGroup;
use crate::cpu::share;
use crate::device::CpuDevice;
use crate::tensor::ViewMut;

/// Numbers that are added at once: they stay in the first-level cache.
const PIECE: usize = 1024;

pub(super) fn all_reduce(cpu: &CpuDevice, group: &RankGroup, x: &ViewMut) {
    let pieces_per_row = x.cols().div_ceil(PIECE);
    group.meet(x, |ranks| {
        let mine = share(group.rank(), group.num_ranks(), x.rows() * pieces_per_row);
        cpu.pool.run(mine.len(), &|index| {
            let (row, part) =
                ((mine.start + index) / pieces_per_row, (mine.start + index) % pieces_per_row);
            let columns = part * PIECE..x.cols().min((part + 1) * PIECE);
            // SAFETY: the ranks share pieces out, and no rank leaves before all are done.
            let parts =
                ranks.views().map(|x| unsafe { x.columns_f32_shared(row, columns.clone()) });
            add_up(parts);
        });
    });
}

/// The sum of all parts, in each of them.
fn add_up<'a>(parts: impl Iterator<Item = &'a mut [f32]> + Clone) {
    let mut sum = [0.0_f32; PIECE];
    for (rank, part) in parts.clone().enumerate() {
        let sum = &mut sum[..part.len()];
        match rank {
            0 => sum.copy_from_slice(part),
            _ => sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += *value),
        }
    }
    for part in parts {
        part.copy_from_slice(&sum[..part.len()]);
    }
}

pub(super) fn gather_columns(
    cpu: &CpuDevice,
    group: &RankGroup,
    x: &ViewMut,
    columns: Range<usize>,
) {
    group.meet(x, |ranks| {
        if group.rank() == 0 {
            return;
        }
        cpu.pool.run(x.rows(), &|row| {
            // SAFETY: each rank writes columns of its own to the first rank, which waits, and reads what it made.
            let (to, from) = unsafe {
                let to = ranks.view(0).columns_f32_shared(row, columns.clone());
                (to, x.columns_f32_shared(row, columns.clone()))
            };
            to.copy_from_slice(from);
        });
    });
}
