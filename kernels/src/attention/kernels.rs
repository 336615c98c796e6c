//! The inner loops of `attention`: one choice of instruction set a call, and what all sets agree on.

#[cfg(target_arch = "x86_64")]
use super::pages::Strips;
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, avx512_pages};
use crate::cpu::SimdLevel;
use crate::kv_layer::KvLayer;
use crate::tensor::DType;

/// Positions whose scores are computed together. Chunks are aligned to position 0, so that the rounding of a row
/// depends on its position alone. Part of the result's definition.
pub(super) const CHUNK: usize = 64;

/// Columns of the score matrix, and of everything padded, come in multiples of this: the widest register.
pub(crate) const STRIP: usize = 16;

/// Strips of a chunk.
pub(super) const STRIPS: usize = CHUNK / STRIP;

/// Rows that the matrix product takes together.
pub(crate) const BLOCK_ROWS: usize = 6;

/// Matrix product `c = c·rescale + a·b` or `c = a·b`, row-major with row strides in elements.
/// Each element of c is one chain of multiply-adds in the order of depth, so blocking never changes a result.
pub(crate) struct Product {
    /// `[num_rows, depth]`
    pub a: *const f32,
    pub a_stride: usize,
    /// `[depth, num_cols]`
    pub b: *const f32,
    pub b_stride: usize,
    /// `[num_rows, num_cols]`
    pub c: *mut f32,
    pub c_stride: usize,
    /// At most `BLOCK_ROWS`.
    pub num_rows: usize,
    /// A multiple of `STRIP`.
    pub num_cols: usize,
    pub depth: usize,
    /// `[num_rows]`; null: c is overwritten.
    pub rescale: *const f32,
}

/// # Safety
/// The three matrices and `rescale` must be live, and c must not overlap the others.
pub(crate) unsafe fn multiply(simd: SimdLevel, product: &Product) {
    // SAFETY: the caller's promise; a device only has a level that its machine has.
    unsafe {
        match simd {
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 | SimdLevel::Avx512Bf16 => avx512::multiply(product),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 | SimdLevel::AvxVnni => avx2::multiply(product),
            _ => portable::multiply(product),
        }
    }
}

/// A part of a page: `rows` rows of `cols` elements of `dtype`, `stride` elements apart.
pub(crate) struct PageMatrix {
    pub pointer: *const u8,
    pub dtype: DType,
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

/// `out[i][j] = page[i][j]` as F32, with row stride `out_stride`.
///
/// # Safety
/// The page must be readable, and `out` must hold its elements.
pub(crate) unsafe fn widen(simd: SimdLevel, page: &PageMatrix, out: *mut f32, out_stride: usize) {
    // SAFETY: as in `multiply`.
    unsafe {
        match simd {
            _ if page.dtype == DType::F8E4M3 => portable::widen_float8(simd, page, out, out_stride),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx512 | SimdLevel::Avx512Bf16 => avx512::widen(page, out, out_stride),
            #[cfg(target_arch = "x86_64")]
            SimdLevel::Avx2 | SimdLevel::AvxVnni => avx2::widen(page, out, out_stride),
            _ => portable::widen(page, out, out_stride),
        }
    }
}

/// The products of few rows with a chunk as it lies in the pages: each element is read once, widened in a register
/// and used for all rows. The same bits as `widen` and `multiply`.
#[cfg(target_arch = "x86_64")]
pub(super) struct PageProduct<'a> {
    pub strips: &'a Strips,
    /// Fetched meanwhile.
    pub next: &'a Strips,
    pub dtype: DType,
    /// Elements between the channels of a key.
    pub key_stride: usize,
    pub head_dim: usize,
    pub num_rows: usize,
    /// Positions of the chunk that some row sees.
    pub seen: std::ops::Range<usize>,
    /// `[num_rows][head_dim]`
    pub queries: *const f32,
    /// `[num_rows][CHUNK]`
    pub scores: *mut f32,
    /// `[num_rows][head_dim]`
    pub weighted: *mut f32,
    /// `[num_rows]`
    pub rescale: *const f32,
}

/// Whether products straight from the pages exist for this shape (decode), where strips do not straddle blocks, and type.
pub(super) fn reads_pages(simd: SimdLevel, num_rows: usize, head_dim: usize, kv: &KvLayer) -> bool {
    cfg!(target_arch = "x86_64")
        && simd >= SimdLevel::Avx512
        && num_rows <= 8
        && head_dim.is_multiple_of(STRIP)
        && kv.block_size().is_multiple_of(STRIP)
        && kv.dtype() != DType::F8E4M3
}

/// `scores = queries · keys`.
///
/// # Safety
/// `reads_pages` holds; every strip is readable, and so is every row; the strip after `seen` need not hold anything.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn score_pages(product: &PageProduct) {
    // SAFETY: the caller's promise.
    unsafe { avx512_pages::score(product) };
}

/// `weighted = weighted · rescale + scores · values`, over the positions in `seen`.
///
/// # Safety
/// As for `score_pages`.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn weigh_pages(product: &PageProduct) {
    // SAFETY: the caller's promise.
    unsafe { avx512_pages::weigh(product) };
}

/// The scores of one chunk and the running softmax of each row over the chunks before it. Scores are logarithms to
/// base 2.
pub(super) struct ChunkScores<'a> {
    /// `[rows][CHUNK]`; in: scores, out: weights 2^(score − maximum), 0 where a row does not see.
    pub scores: &'a mut [f32],
    /// Positions of the chunk that each row sees: `[from, to)`, empty when equal. Both grow with the row.
    pub visible: &'a [(u32, u32)],
    pub softcap: Option<f32>,
    /// Largest score of each row; as long as the rows padded to `STRIP`.
    pub maximum: &'a mut [f32],
    /// Σ weight of each row, in lanes that are added up at the end.
    pub sums: &'a mut [[f32; STRIP]],
    /// Out: what the weighted values of earlier chunks must be multiplied with; padded as `maximum`.
    pub rescale: &'a mut [f32],
}

impl ChunkScores<'_> {
    /// Bit i: whether the row sees position i of the chunk.
    pub(super) fn mask(&self, row: usize) -> u64 {
        match self.visible[row] {
            (from, to) if from < to => (u64::MAX << from) & (u64::MAX >> (CHUNK as u32 - to)),
            _ => 0,
        }
    }

    /// Whether every row sees the whole chunk.
    pub(super) fn is_full(&self) -> bool {
        let (first, last) = (self.visible.first(), self.visible.last());
        first.is_some_and(|first| first.1 == CHUNK as u32) && last.is_some_and(|last| last.0 == 0)
    }
}

/// Turns scores into weights and updates the running softmax. A row that sees nothing keeps its state.
pub(super) fn softmax(simd: SimdLevel, chunk: &mut ChunkScores) {
    let rows = chunk.visible.len();
    assert!(chunk.scores.len() == rows * CHUNK && chunk.sums.len() == rows);
    let padded = rows.next_multiple_of(STRIP);
    assert!(chunk.maximum.len() >= padded && chunk.rescale.len() >= padded);
    if let Some(softcap) = chunk.softcap {
        portable::cap_scores(simd, chunk.scores, softcap);
    }
    match simd {
        // SAFETY: a device only has a level that its machine has.
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 | SimdLevel::Avx512Bf16 => unsafe { avx512::softmax(chunk) },
        _ => portable::softmax(simd, chunk),
    }
}
