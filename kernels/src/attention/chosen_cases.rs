//! Shapes that test and time `attention_to`.

use super::cases::{Lengths, Pages, dense_heads, forget_before, inputs, margin};
use super::{AttentionSpec, attention_to, reference};
use crate::cases::{BF16_TOLERANCE, Case, Input, Kind, NO_CUDA_KERNEL, Work, in_place, random_f32};
use crate::device::Device;
use crate::tensor::{DType, Tensor};

const SHORT: &[Lengths] = &[(1, 1), (5, 5), (70, 3)];
const LONG: &[Lengths] = &[(300, 9), (40, 40), (2500, 1)];
/// More rows than a launch takes on a GPU.
const MANY: &[Lengths] = &[(3, 3), (1100, 1100)];

/// Query heads, KV heads, channels of a head, and of what channel on keys are values: the latent caches that CUDA has
/// kernels for.
type Heads = (usize, usize, usize, Option<usize>);

pub fn cases() -> Vec<Case> {
    use DType::{BF16, F16, F32};
    vec![
        case(SHORT, (2, 1, 16, None), 8, F32, 3),
        case(SHORT, (5, 1, 40, None), 4, F16, 64),
        case(LONG, (16, 1, 40, None), 16, BF16, 48),
        case(LONG, (4, 2, 32, None), 16, F32, 100),
        case(LONG, (3, 1, 24, None), 8, F16, 2048),
        case(SHORT, (5, 1, 40, Some(8)), 8, BF16, 3),
        case(LONG, (70, 1, 40, Some(8)), 16, BF16, 48),
        case(LONG, (4, 1, 40, Some(8)), 16, BF16, 2048),
        case(SHORT, (9, 1, 576, Some(64)), 32, BF16, 40),
        case(MANY, (1, 1, 40, Some(8)), 16, BF16, 4),
    ]
}

fn case(
    lengths: &'static [Lengths],
    (num_q_heads, num_kv_heads, head_dim, values_from): Heads,
    block_size: usize,
    dtype: DType,
    top_k: usize,
) -> Case {
    let spec = AttentionSpec {
        num_q_heads,
        num_kv_heads,
        head_dim,
        scale: 6.0 / (head_dim as f32).sqrt(),
        causal: true,
        window: None,
        chunk: None,
        softcap: None,
    };
    let (queries, keys, mut values) = inputs(lengths, &spec);
    if values_from.is_some() {
        values.clone_from(&keys);
    }
    let mut pages = Pages::new(lengths, &spec, block_size, dtype);
    pages.fill(&spec, &keys, &values);
    let chosen = chosen(lengths, top_k);
    let num_rows = lengths.iter().map(|&(_, queries)| queries).sum::<usize>();
    let (q_cols, margin) = (num_q_heads * head_dim, margin(&spec));
    let mut q = Input::new(Kind::Activations, queries.clone(), num_rows, q_cols + 2 * margin);
    let mut on_cuda = None;
    let table = table(&chosen, top_k);
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
        cuda_tolerance: values_from.map_or(NO_CUDA_KERNEL, |_| BF16_TOLERANCE),
        output_len: num_rows * q_cols,
        run: Box::new(move |device, output| {
            let q = q.view(device).columns(margin..margin + q_cols);
            let (kv, table) = match device {
                Device::Cuda(_) => {
                    let (kv, table) = on_cuda.get_or_insert_with(|| {
                        (pages.kv.copied_to(device, values_from), copied_to(device, &table))
                    });
                    (&*kv, &*table)
                }
                _ => (&pages.kv, &table),
            };
            in_place(device, Kind::Activations, output, (num_rows, q_cols), |out| {
                attention_to(device, out, q, kv, &pages.batch(), &spec, table);
            });
            forget_before(values_from, output, head_dim);
        }),
        reference: Box::new(move || {
            let queries = queries.chunks(q_cols + 2 * margin).map(|row| &row[margin..][..q_cols]);
            let queries: Vec<&[f32]> = queries.collect();
            let mut out = expected(lengths, &spec, &queries, (&keys, &values), dtype, &chosen);
            forget_before(values_from, &mut out, head_dim);
            out
        }),
    }
}

fn copied_to(device: &Device, table: &Tensor) -> Tensor {
    let copy = device.allocate(DType::U32, table.rows(), table.cols());
    let mut copy = copy.expect("a case fits the device");
    copy.write_bytes(0, table.bytes());
    copy
}

/// `[rows, top_k]`; places that no row has hold what no table of blocks does.
fn table(chosen: &[Vec<u32>], top_k: usize) -> Tensor {
    let mut table = Tensor::host(DType::U32, chosen.len(), top_k).expect("a small tensor");
    for (row, chosen) in table.u32_mut().chunks_mut(top_k).zip(chosen) {
        row.fill(u32::MAX);
        row[..chosen.len()].copy_from_slice(chosen);
    }
    table
}

fn expected(
    lengths: &[Lengths],
    spec: &AttentionSpec,
    queries: &[&[f32]],
    kv: (&[f32], &[f32]),
    dtype: DType,
    chosen: &[Vec<u32>],
) -> Vec<f32> {
    let head_dim = spec.head_dim;
    let mut rows = queries.iter().zip(chosen);
    let (mut out, mut first) = (Vec::new(), 0);
    for &(context, num_queries) in lengths {
        let heads = dense_heads(kv, (first, context), spec, dtype);
        for (query, chosen) in rows.by_ref().take(num_queries) {
            let of = |rows: &[f32]| -> Vec<f32> {
                let row = |&at: &u32| &rows[at as usize * head_dim..][..head_dim];
                chosen.iter().flat_map(row).copied().collect()
            };
            for (head, query) in query.chunks_exact(head_dim).enumerate() {
                let (keys, values) = &heads[head * spec.num_kv_heads / spec.num_q_heads];
                let (keys, values, last) = (of(keys), of(values), chosen.len() - 1);
                out.extend(reference::attention_head(query, last, &keys, &values, spec, None));
            }
        }
        first += context;
    }
    out
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
