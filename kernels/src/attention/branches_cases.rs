//! Shapes that test and time `attention` of rows that branch.

use super::cases::{Lengths, Pages, dense_heads, inputs, margin};
use super::{AttentionBatch, AttentionSpec, Branches, attention, reference};
use crate::cases::{BF16_TOLERANCE, Case, Input, Kind, Work, in_place, random_f32};
use crate::device::Device;
use crate::tensor::DType;

/// Every third sequence does not branch.
const SHORT: &[Lengths] = &[(1, 1), (5, 5), (70, 3), (70, 7), (128, 8), (17, 2), (130, 8)];
const LONG: &[Lengths] = &[(1030, 8), (1100, 6), (300, 40), (2049, 3)];
const DECODE: &[Lengths] = &[(520, 8), (520, 8)];

pub fn cases() -> Vec<Case> {
    use DType::{BF16, F8E4M3, F16, F32};
    let none: (Option<u32>, Option<u32>, Option<f32>) = (None, None, None);
    vec![
        case(SHORT, (1, 1, 16), 8, F32, none),
        case(SHORT, (3, 1, 64), 16, F16, none),
        case(SHORT, (4, 2, 80), 32, BF16, (Some(50), None, None)),
        case(SHORT, (7, 1, 96), 5, F32, (None, Some(48), Some(2.0))),
        case(SHORT, (2, 1, 32), 16, F8E4M3, none),
        case(LONG, (4, 1, 64), 16, F16, none),
        case(LONG, (3, 3, 80), 8, F32, (Some(1050), None, None)),
        case(LONG, (4, 2, 128), 16, BF16, none),
        case(DECODE, (9, 3, 64), 16, F16, none),
    ]
}

/// What `Branches` is made of.
#[derive(Clone, Default)]
struct Tree {
    positions: Vec<u32>,
    start_loc: Vec<u32>,
    places: Vec<u32>,
}

impl Tree {
    /// Each row follows the one before it or an earlier one.
    fn of(lengths: &[Lengths]) -> Self {
        let mut tree = Self { start_loc: vec![0], ..Self::default() };
        for (sequence, &(context, queries)) in lengths.iter().enumerate() {
            let start = (context - queries) as u32;
            let choices = random_f32(71 + sequence as u64, queries);
            let mut paths: Vec<Vec<u32>> = Vec::new();
            for row in 0..queries {
                let parent = (choices[row].abs() * row as f32) as usize;
                let parent = if row % 2 == 0 { parent } else { row.saturating_sub(1) };
                let mut path = paths.get(parent).cloned().unwrap_or_default();
                path.push(start + row as u32);
                if sequence % 3 == 2 {
                    tree.positions.push(start + row as u32);
                } else {
                    tree.positions.push(start + path.len() as u32 - 1);
                    tree.places.extend(&path);
                }
                tree.start_loc.push(tree.places.len() as u32);
                paths.push(path);
            }
        }
        tree
    }

    fn branches(&self) -> Branches<'_> {
        let Self { positions, start_loc, places } = self;
        Branches { positions, start_loc, places }
    }
}

fn case(
    lengths: &'static [Lengths],
    (num_q_heads, num_kv_heads, head_dim): (usize, usize, usize),
    block_size: usize,
    dtype: DType,
    (window, chunk, softcap): (Option<u32>, Option<u32>, Option<f32>),
) -> Case {
    let spec = AttentionSpec {
        num_q_heads,
        num_kv_heads,
        head_dim,
        scale: 6.0 / (head_dim as f32).sqrt(),
        causal: true,
        window,
        chunk,
        softcap,
    };
    let (queries, keys, values) = inputs(lengths, &spec);
    let mut pages = Pages::new(lengths, &spec, block_size, dtype);
    pages.fill(&spec, &keys, &values);
    let tree = Tree::of(lengths);
    let num_rows = tree.positions.len();
    let (q_cols, margin) = (num_q_heads * head_dim, margin(&spec));
    let mut q = Input::new(Kind::Activations, queries.clone(), num_rows, q_cols + 2 * margin);
    let seen: usize = tree.positions.iter().map(|&position| position as usize + 1).sum();
    let input = tree.clone();
    let mut kv_on_cuda = None;
    Case {
        op: "attention",
        name: format!(
            "branches {lengths:?} {num_q_heads}/{num_kv_heads}x{head_dim} block={block_size} {dtype:?} window={window:?}"
        ),
        work: Work {
            bytes: (8 * num_rows * q_cols + 2 * seen * num_kv_heads * head_dim * dtype.size())
                as u64,
            operations: (4 * seen * q_cols) as u64,
        },
        tolerance: 1e-5,
        cuda_tolerance: BF16_TOLERANCE,
        output_len: num_rows * q_cols,
        run: Box::new(move |device, output| {
            let q = q.view(device).columns(margin..margin + q_cols);
            let kv = match device {
                Device::Cuda(_) => {
                    kv_on_cuda.get_or_insert_with(|| pages.kv.copied_to(device, None))
                }
                _ => &pages.kv,
            };
            let batch = AttentionBatch { branches: Some(input.branches()), ..pages.batch() };
            in_place(device, Kind::Activations, output, (num_rows, q_cols), |out| {
                attention(device, out, q, kv, &batch, &spec, None);
            });
        }),
        reference: Box::new(move || {
            let queries = queries.chunks(q_cols + 2 * margin).map(|row| &row[margin..][..q_cols]);
            let queries: Vec<&[f32]> = queries.collect();
            expected(lengths, &spec, &queries, (&keys, &values), dtype, &tree)
        }),
    }
}

fn expected(
    lengths: &[Lengths],
    spec: &AttentionSpec,
    queries: &[&[f32]],
    kv: (&[f32], &[f32]),
    dtype: DType,
    tree: &Tree,
) -> Vec<f32> {
    let head_dim = spec.head_dim;
    let mut rows = 0..queries.len();
    let (mut out, mut first) = (Vec::new(), 0);
    for &(context, num_queries) in lengths {
        let heads = dense_heads(kv, (first, context), spec, dtype);
        for row in rows.by_ref().take(num_queries) {
            let position = tree.positions[row];
            let places =
                &tree.places[tree.start_loc[row] as usize..tree.start_loc[row + 1] as usize];
            let num_own = position + 1 - places.len() as u32;
            let seen: Vec<u32> = (0..num_own).chain(places.iter().copied()).collect();
            let of = |rows: &[f32]| -> Vec<f32> {
                let row = |&at: &u32| &rows[at as usize * head_dim..][..head_dim];
                seen.iter().flat_map(row).copied().collect()
            };
            for (head, query) in queries[row].chunks_exact(head_dim).enumerate() {
                let (keys, values) = &heads[head * spec.num_kv_heads / spec.num_q_heads];
                let (keys, values) = (of(keys), of(values));
                let at = position as usize;
                out.extend(reference::attention_head(query, at, &keys, &values, spec, None));
            }
        }
        first += context;
    }
    out
}
