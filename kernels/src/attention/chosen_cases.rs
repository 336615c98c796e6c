//! Shapes that test and time `attention_to`.

use super::cases::{Lengths, Pages, dense_heads, inputs, margin};
use super::{AttentionSpec, attention_to, reference};
use crate::cases::{Case, NO_CUDA_KERNEL, Work, random_f32};
use crate::tensor::{DType, Tensor, View, ViewMut};

const SHORT: &[Lengths] = &[(1, 1), (5, 5), (70, 3)];
const LONG: &[Lengths] = &[(300, 9), (40, 40), (2500, 1)];

pub fn cases() -> Vec<Case> {
    use DType::{BF16, F16, F32};
    vec![
        case(SHORT, (2, 1, 16), 8, F32, 3),
        case(SHORT, (5, 1, 40), 4, F16, 64),
        case(LONG, (16, 1, 40), 16, BF16, 48),
        case(LONG, (4, 2, 32), 16, F32, 100),
        case(LONG, (3, 1, 24), 8, F16, 2048),
    ]
}

fn case(
    lengths: &'static [Lengths],
    (num_q_heads, num_kv_heads, head_dim): (usize, usize, usize),
    block_size: usize,
    dtype: DType,
    top_k: usize,
) -> Case {
    let scale = 6.0 / (head_dim as f32).sqrt();
    let (window, chunk, softcap, causal) = (None, None, None, true);
    let spec = AttentionSpec {
        num_q_heads,
        num_kv_heads,
        head_dim,
        scale,
        causal,
        window,
        chunk,
        softcap,
    };
    let pages = Pages::filled(lengths, &spec, block_size, dtype);
    let (queries, keys, values) = inputs(lengths, &spec);
    let chosen = chosen(lengths, top_k);
    let num_rows = lengths.iter().map(|&(_, queries)| queries).sum::<usize>();
    let (q_cols, margin) = (num_q_heads * head_dim, margin(&spec));
    let start = queries.clone();
    let mut table = Tensor::host(DType::U32, num_rows, top_k).expect("a small tensor");
    for (row, chosen) in table.u32_mut().chunks_mut(top_k).zip(&chosen) {
        row.fill(u32::MAX);
        row[..chosen.len()].copy_from_slice(chosen);
    }
    let pairs: usize = chosen.iter().map(Vec::len).sum();
    Case {
        op: "attention_to",
        name: format!("{top_k} of {lengths:?} {num_q_heads}/{num_kv_heads}x{head_dim} {dtype:?}"),
        work: Work {
            bytes: (8 * num_rows * q_cols + 2 * pairs * num_kv_heads * head_dim * dtype.size())
                as u64,
            operations: (4 * pairs * q_cols) as u64,
        },
        tolerance: 1e-5,
        cuda_tolerance: NO_CUDA_KERNEL,
        output_len: num_rows * q_cols,
        run: Box::new(move |device, output| {
            let q = View::from_f32(&start, num_rows, q_cols + 2 * margin);
            let out = ViewMut::from_f32(output, num_rows, q_cols);
            let q = q.columns(margin..margin + q_cols);
            attention_to(device, out, q, &pages.kv, &pages.batch(), &spec, &table);
        }),
        reference: Box::new(move || {
            let mut rows = queries.chunks(q_cols + 2 * margin).zip(&chosen);
            let (mut out, mut first) = (Vec::new(), 0);
            for &(context, num_queries) in lengths {
                let heads = dense_heads((&keys, &values), (first, context), &spec, dtype);
                for (query, chosen) in rows.by_ref().take(num_queries) {
                    let of = |rows: &[f32]| -> Vec<f32> {
                        let row = |&at: &u32| &rows[at as usize * head_dim..][..head_dim];
                        chosen.iter().flat_map(row).copied().collect()
                    };
                    let queries = query[margin..].chunks_exact(head_dim).take(num_q_heads);
                    for (head, query) in queries.enumerate() {
                        let (keys, values) = &heads[head * num_kv_heads / num_q_heads];
                        let (keys, values, last) = (of(keys), of(values), chosen.len() - 1);
                        out.extend(reference::attention_head(
                            query, last, &keys, &values, &spec, None,
                        ));
                    }
                }
                first += context;
            }
            out
        }),
    }
}

/// Some positions of each query, ascending.
fn chosen(lengths: &[Lengths], top_k: usize) -> Vec<Vec<u32>> {
    let mut out = Vec::new();
    for &(context, num_queries) in lengths {
        for position in context - num_queries..context {
            let order = random_f32(91 + position as u64, position + 1);
            let mut chosen: Vec<u32> = (0..=position as u32).collect();
            chosen.sort_by(|&a, &b| order[a as usize].total_cmp(&order[b as usize]));
            chosen.truncate(top_k);
            chosen.sort_unstable();
            out.push(chosen);
        }
    }
    out
}
