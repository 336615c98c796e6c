//! What Hopper alone has: mbarriers, the tensor copy engine (TMA), products of a warpgroup (`wgmma`).

use super::{Finding, bf16, filled, launch, pairs, small};
use crate::cuda::{CudaDevice, Swizzle, TensorMap};

/// Values pass through a ring of two stages in order, again and again.
pub(super) fn mbarrier(cuda: &CudaDevice) -> Vec<Finding> {
    const ROUNDS: usize = 9;
    let got = launch(cuda, "probe_mbarrier", (1, 64, 0), ROUNDS * 32, &[ROUNDS.into()]);
    let expected = (0..ROUNDS * 32).map(|at| (at / 32 * 32 + 31 - at % 32) as u32);
    vec![Finding::bits("a ring of two stages", got, expected.collect())]
}

/// Boxes inside a matrix and across its edges. Chunks of 16 bytes are swizzled by the row of 128 bytes they lie in; what is
/// outside the matrix is 0, and counts as copied.
pub(super) fn tma(cuda: &CudaDevice) -> Vec<Finding> {
    const ROWS: usize = 20;
    const COLS: usize = 72;
    const BOX_ROWS: usize = 16;
    let element = |row: usize, column: usize| (row * COLS + column + 1) as u16;
    let places = (0..ROWS * COLS).map(|at| element(at / COLS, at % COLS));
    let input = filled(cuda, &pairs(&places.collect::<Vec<_>>()));
    let mut findings = Vec::new();
    for (swizzle, span) in [
        (Swizzle::None, 64),
        (Swizzle::Bytes32, 32),
        (Swizzle::Bytes64, 64),
        (Swizzle::Bytes128, 128),
    ] {
        let box_cols = span / 2;
        let map = TensorMap::of_bf16(&input, [ROWS, COLS], [BOX_ROWS, box_cols], swizzle);
        for (x, y) in [(0, 0), (8, 3), (48, 12), (-8, -2), (64, 18)] {
            let bytes = BOX_ROWS * span;
            let arguments = [map.argument(), i32::into(x), i32::into(y), bytes.into()];
            let got = launch(cuda, "probe_tma", (1, 128, bytes), bytes / 4, &arguments);
            let mut expected = vec![0; bytes / 2];
            for row in 0..BOX_ROWS {
                for column in 0..box_cols {
                    let (from_row, from_column) = (y + row as i32, x + column as i32);
                    let is_inside = (0..ROWS as i32).contains(&from_row)
                        && (0..COLS as i32).contains(&from_column);
                    if is_inside {
                        let at = swizzled(2 * (row * box_cols + column), swizzle) / 2;
                        expected[at] = element(from_row as usize, from_column as usize);
                    }
                }
            }
            let what = format!("{swizzle:?}, box at ({x}, {y})");
            findings.push(Finding::bits(what, got, pairs(&expected)));
        }
    }
    findings
}

/// Where a byte of a tile goes that begins at a multiple of 1024.
fn swizzled(offset: usize, swizzle: Swizzle) -> usize {
    let (chunk, row_of_128) = (offset / 16 % 8, offset / 128 % 8);
    let chunk = match swizzle {
        Swizzle::None => chunk,
        Swizzle::Bytes32 => chunk ^ (row_of_128 % 2),
        Swizzle::Bytes64 => chunk ^ (row_of_128 % 4),
        Swizzle::Bytes128 => chunk ^ row_of_128,
    };
    offset / 128 * 128 + chunk * 16 + offset % 16
}

/// Whole numbers: every sum is exact.
pub(super) fn wgmma(cuda: &CudaDevice) -> Vec<Finding> {
    const SIZE: usize = 64;
    let (a, b) = (
        |row: usize, k: usize| small(64 * row + k),
        |row: usize, k: usize| small(9999 + 64 * row + k),
    );
    let matrix = |of: &dyn Fn(usize, usize) -> i32| {
        let elements = (0..SIZE * SIZE).map(|at| bf16(of(at / SIZE, at % SIZE)));
        filled(cuda, &pairs(&elements.collect::<Vec<_>>()))
    };
    let (at_a, at_b) = (matrix(&a), matrix(&b));
    let check = |keeps: i32| {
        let arguments = [at_a.pointer().into(), at_b.pointer().into(), keeps.into()];
        let got = launch(cuda, "probe_wgmma", (1, 128, 2 * 8192), 128 * 32, &arguments);
        let expected: Vec<f32> = (0..128 * 32_usize)
            .map(|at| {
                let (thread, register) = (at / 32, at % 32);
                let row = thread / 32 * 16 + thread % 32 / 4 + 8 * (register / 2 % 2);
                let column = register / 4 * 8 + thread % 4 * 2 + register % 2;
                let sum: i32 = (0..SIZE).map(|k| a(row, k) * b(column, k)).sum();
                (sum + keeps * at as i32) as f32
            })
            .collect();
        Finding::floats(if keeps == 1 { "d + a · b" } else { "a · b" }, got, &expected, 0.0)
    };
    vec![check(0), check(1)]
}
