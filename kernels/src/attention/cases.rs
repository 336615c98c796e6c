//! Shapes that test and time `attention`.

use super::{
    AttentionBatch, AttentionSpec, CUDA_HEAD_DIMS, CUDA_LATENT_DIMS, attention, reference,
};
use crate::cases::{
    BF16_TOLERANCE, Case, Input, Kind, NO_CUDA_KERNEL, Work, in_place, random_activations,
    random_f32,
};
use crate::device::Device;
use crate::kv_layer::{KvLayer, rounded};
use crate::rope_write_kv::{RopeWriteKv, rope_write_kv};
use crate::tensor::{DType, ViewMut};

/// Positions of a sequence and how many of the last ones are queries.
pub(super) type Lengths = (usize, usize);

const MIXED: &[Lengths] = &[(1, 1), (5, 5), (63, 2), (64, 17), (65, 1), (129, 129), (1100, 1)];
const LONG: &[Lengths] = &[(1100, 17), (2100, 1), (1030, 7)];
const ALL: &[Lengths] = &[(1100, 1100), (65, 65)];
const SHORT: &[Lengths] = &[(1, 1), (70, 6), (33, 33), (600, 2)];
const DECODE: &[Lengths] = &[(1024, 1); 32];
const PREFILL: &[Lengths] = &[(512, 512)];
/// The name of shapes whose queries see what follows them, too.
const BOTH: &str = "both directions";

struct Shape {
    name: &'static str,
    lengths: &'static [Lengths],
    spec: AttentionSpec,
    block_size: usize,
    dtype: DType,
    /// Values are the keys, of which channels from this one on are compared.
    values_from: Option<usize>,
}

pub fn cases() -> Vec<Case> {
    use DType::{BF16, F8E4M3, F16, F32};
    let none: (Option<u32>, Option<u32>, Option<f32>) = (None, None, None);
    [
        ("mixed", MIXED, (1, 1, 16), 8, F32, none),
        ("mixed", MIXED, (3, 1, 64), 16, F16, none),
        ("mixed", MIXED, (8, 2, 80), 32, BF16, (Some(50), None, None)),
        ("mixed", MIXED, (7, 1, 96), 16, F32, (None, None, Some(0.5))),
        ("mixed", MIXED, (8, 1, 128), 8, F16, (Some(1), None, None)),
        ("mixed", MIXED, (4, 4, 256), 32, BF16, (None, None, Some(20.0))),
        ("mixed", MIXED, (3, 1, 18), 24, F16, (Some(64), None, Some(2.0))),
        ("long", LONG, (4, 1, 64), 16, F32, none),
        ("long", LONG, (3, 3, 80), 8, F16, (Some(1050), None, None)),
        ("long", LONG, (70, 1, 16), 64, BF16, (Some(3), None, None)),
        ("all", ALL, (3, 1, 16), 32, F32, none),
        ("all", ALL, (2, 1, 64), 16, F16, (Some(333), None, None)),
        ("mixed", MIXED, (4, 2, 32), 8, F16, (None, Some(48), None)),
        ("mixed", MIXED, (3, 1, 16), 16, F32, (None, Some(1), Some(2.0))),
        ("all", ALL, (2, 1, 64), 16, F16, (None, Some(300), None)),
        ("decode", DECODE, (9, 3, 64), 16, F16, none),
        ("prefill", PREFILL, (9, 3, 64), 16, F16, none),
        ("mixed", MIXED, (4, 2, 32), 16, BF16, (Some(200), None, None)),
        ("long", LONG, (4, 2, 128), 16, BF16, none),
        ("mixed", MIXED, (4, 2, 64), 16, F8E4M3, none),
        ("mixed", MIXED, (2, 1, 80), 8, F8E4M3, (Some(50), None, None)),
        ("mixed", MIXED, (2, 1, 256), 16, F8E4M3, none),
        ("mixed", MIXED, (2, 1, 32), 16, F8E4M3, none),
        ("mixed", MIXED, (2, 1, 96), 16, F8E4M3, none),
        ("mixed", MIXED, (2, 1, 128), 16, F8E4M3, none),
        ("long", LONG, (3, 1, 16), 32, F8E4M3, (None, None, Some(2.0))),
        (BOTH, MIXED, (4, 4, 16), 16, F32, none),
        (BOTH, MIXED, (3, 1, 64), 8, F16, (Some(50), None, None)),
        (BOTH, ALL, (2, 1, 32), 16, F32, (Some(1), None, Some(2.0))),
        (BOTH, ALL, (4, 4, 64), 16, F32, (Some(128), None, None)),
        (BOTH, ALL, (3, 3, 80), 32, BF16, none),
        (BOTH, LONG, (4, 2, 64), 16, BF16, (Some(600), None, None)),
        ("mixed", MIXED, (6, 2, 24), 16, BF16, (Some(100), None, None)),
        ("mixed", SHORT, (2, 1, 512), 16, BF16, none),
    ]
    .into_iter()
    .map(|(name, lengths, (num_q_heads, num_kv_heads, head_dim), block_size, dtype, limits)| {
        let (window, chunk, softcap) = limits;
        // Larger than 1/√d, so that weights differ by orders of magnitude.
        let scale = 6.0 / (head_dim as f32).sqrt();
        let spec = AttentionSpec {
            num_q_heads,
            num_kv_heads,
            head_dim,
            scale,
            causal: name != BOTH,
            window,
            chunk,
            softcap,
        };
        case(&Shape { name, lengths, spec, block_size, dtype, values_from: None })
    })
    .chain(latent_cases())
    .collect()
}

/// Heads, rank, rotated channels.
fn latent_cases() -> impl Iterator<Item = Case> {
    [
        ("latent mixed", MIXED, (4, 32, 8), 16, DType::BF16),
        ("latent long", LONG, (5, 32, 8), 8, DType::BF16),
        ("latent all", ALL, (3, 32, 8), 64, DType::BF16),
        ("latent", SHORT, (11, 512, 64), 16, DType::BF16),
        ("latent", SHORT, (20, 256, 64), 32, DType::BF16),
    ]
    .into_iter()
    .map(|(name, lengths, (num_q_heads, rank, rope_dim), block_size, dtype)| {
        let head_dim = rank + rope_dim;
        let (scale, limit) = (6.0 / (head_dim as f32).sqrt(), None);
        let spec = AttentionSpec {
            num_q_heads,
            num_kv_heads: 1,
            head_dim,
            scale,
            causal: true,
            window: limit,
            chunk: limit,
            softcap: None,
        };
        case(&Shape { name, lengths, spec, block_size, dtype, values_from: Some(rope_dim) })
    })
}

fn case(shape: &Shape) -> Case {
    let &Shape { lengths, spec, block_size, dtype, values_from, .. } = shape;
    let (q_cols, kv_cols) = (spec.num_q_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim);
    let num_rows = lengths.iter().map(|&(_, queries)| queries).sum::<usize>();
    let (queries, keys, mut values) = inputs(lengths, &spec);
    let mut pages = Pages::new(lengths, &spec, block_size, dtype);
    if values_from.is_some() {
        values.clone_from(&keys);
    }
    pages.fill(&spec, &keys, &values);
    let (visible, positions) = amounts(lengths, &spec);
    let margin = margin(&spec);
    let mut q = Input::new(Kind::Activations, queries.clone(), num_rows, q_cols + 2 * margin);
    let (size, mut kv_on_cuda) = (dtype.size(), None);
    // Of a size that matters beside the scores, for some shapes.
    let sinks: Option<Vec<f32>> = (spec.num_q_heads % 4 == 3)
        .then(|| random_f32(54, spec.num_q_heads).iter().map(|x| 20.0 * x).collect());
    let mut sink_input =
        sinks.clone().map(|sinks| Input::new(Kind::Numbers, sinks, 1, spec.num_q_heads));
    Case {
        op: "attention",
        name: format!(
            "{} {}/{}x{} block={block_size} {dtype:?} window={:?} chunk={:?} softcap={:?}",
            shape.name,
            spec.num_q_heads,
            spec.num_kv_heads,
            spec.head_dim,
            spec.window,
            spec.chunk,
            spec.softcap
        ),
        work: Work {
            bytes: (8 * num_rows * q_cols + 2 * positions * kv_cols * size) as u64,
            operations: (4 * visible * q_cols) as u64,
        },
        tolerance: 1e-5,
        cuda_tolerance: match has_cuda_kernel(&spec) {
            true => BF16_TOLERANCE,
            false => NO_CUDA_KERNEL,
        },
        output_len: num_rows * q_cols,
        run: Box::new(move |device, output| {
            let q = q.view(device).columns(margin..margin + q_cols);
            let sinks = sink_input.as_mut().map(|sinks| sinks.on(device));
            let kv = match device {
                Device::Cuda(_) => {
                    kv_on_cuda.get_or_insert_with(|| pages.kv.copied_to(device, values_from))
                }
                _ => &pages.kv,
            };
            in_place(device, Kind::Activations, output, (num_rows, q_cols), |out| {
                attention(device, out, q, kv, &pages.batch(), &spec, sinks);
            });
            forget_before(values_from, output, spec.head_dim);
        }),
        reference: Box::new(move || {
            let sinks = sinks.as_deref();
            let mut out = expected(lengths, &spec, &queries, &keys, &values, dtype, sinks);
            forget_before(values_from, &mut out, spec.head_dim);
            out
        }),
    }
}

pub(super) fn has_cuda_kernel(spec: &AttentionSpec) -> bool {
    let is_latent = |&(rank, rope_dim): &(usize, usize)| rank + rope_dim == spec.head_dim;
    CUDA_HEAD_DIMS.contains(&spec.head_dim) || CUDA_LATENT_DIMS.iter().any(is_latent)
}

/// Zeros in place of the channels of each head that are not compared.
pub(super) fn forget_before(values_from: Option<usize>, out: &mut [f32], head_dim: usize) {
    for head in out.chunks_mut(head_dim) {
        head[..values_from.unwrap_or(0)].fill(0.0);
    }
}

/// Columns before and after the queries, which are a slice of something wider: odd where only the CPU meets them.
pub(super) fn margin(spec: &AttentionSpec) -> usize {
    if has_cuda_kernel(spec) { 8 } else { 3 }
}

/// Queries `[rows][margin + q_cols + margin]`, keys and values `[positions][kv_cols]`.
pub(super) fn inputs(lengths: &[Lengths], spec: &AttentionSpec) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let num_rows = lengths.iter().map(|&(_, queries)| queries).sum::<usize>();
    let num_positions = lengths.iter().map(|&(context, _)| context).sum::<usize>();
    let q_cols = spec.num_q_heads * spec.head_dim + 2 * margin(spec);
    let kv_cols = spec.num_kv_heads * spec.head_dim;
    (
        random_activations(51, num_rows * q_cols),
        random_activations(52, num_positions * kv_cols),
        random_activations(53, num_positions * kv_cols),
    )
}

/// Pairs of query and position seen, and positions that some query of their sequence sees.
fn amounts(lengths: &[Lengths], spec: &AttentionSpec) -> (usize, usize) {
    let mut amounts = (0, 0);
    for &(context, queries) in lengths {
        let first_query = context - queries;
        let seen = (first_query..context)
            .map(|query| spec.end_visible(query, context) - spec.first_visible(query));
        amounts.0 += seen.sum::<usize>();
        amounts.1 += context - spec.first_visible(first_query);
    }
    amounts
}

/// A cache with the blocks of all sequences, interleaved, and the tables that find them.
pub(super) struct Pages {
    pub(super) kv: KvLayer,
    query_start_loc: Vec<u32>,
    context_lens: Vec<u32>,
    block_tables: Vec<u32>,
    rows: Vec<u32>,
    max_blocks_per_seq: usize,
}

impl Pages {
    /// With the keys and values of `inputs`.
    #[cfg(test)]
    pub(super) fn filled(
        lengths: &[Lengths],
        spec: &AttentionSpec,
        block_size: usize,
        dtype: DType,
    ) -> Self {
        let mut pages = Self::new(lengths, spec, block_size, dtype);
        let (_, keys, values) = inputs(lengths, spec);
        pages.fill(spec, &keys, &values);
        pages
    }

    pub(super) fn new(
        lengths: &[Lengths],
        spec: &AttentionSpec,
        block_size: usize,
        dtype: DType,
    ) -> Self {
        let num_seqs = lengths.len();
        let longest = lengths.iter().map(|&(context, _)| context).max().expect("a sequence");
        let max_blocks_per_seq = longest.div_ceil(block_size) + 1;
        let num_blocks = num_seqs * max_blocks_per_seq;
        let device = Device::cpu(1);
        let (kv_heads, head_dim) = (spec.num_kv_heads, spec.head_dim);
        let kv = KvLayer::new(&device, dtype, num_blocks, block_size, kv_heads, head_dim);
        let mut query_start_loc = vec![0];
        let mut block_tables = vec![u32::MAX; num_blocks];
        // The rows of the table are in reverse order; block b of sequence s is s + b · num_seqs.
        let rows: Vec<u32> = (0..num_seqs as u32).rev().collect();
        for (sequence, &(context, queries)) in lengths.iter().enumerate() {
            query_start_loc.push(query_start_loc[sequence] + queries as u32);
            let start = rows[sequence] as usize * max_blocks_per_seq;
            let first_seen = spec.first_visible(context - queries) / block_size;
            for block in first_seen..context.div_ceil(block_size) {
                block_tables[start + block] = (sequence + block * num_seqs) as u32;
            }
        }
        Self {
            kv: kv.expect("a small cache"),
            query_start_loc,
            context_lens: lengths.iter().map(|&(context, _)| context as u32).collect(),
            block_tables,
            rows,
            max_blocks_per_seq,
        }
    }

    pub(super) fn batch(&self) -> AttentionBatch<'_> {
        AttentionBatch {
            query_start_loc: (&self.query_start_loc).into(),
            context_lens: (&self.context_lens).into(),
            block_tables: (&self.block_tables).into(),
            rows: (&self.rows).into(),
            max_blocks_per_seq: self.max_blocks_per_seq,
            replayed_with: None,
            branches: None,
        }
    }

    /// Writes every position that a query sees; NaN everywhere else, which must never be read.
    pub(super) fn fill(&mut self, spec: &AttentionSpec, keys: &[f32], values: &[f32]) {
        let (block_size, num_blocks) = (self.kv.block_size(), self.kv.num_blocks());
        let cols = spec.num_kv_heads * spec.head_dim;
        let mut slots: Vec<u32> = (0..(num_blocks * block_size) as u32).collect();
        self.write(spec, &slots, &vec![f32::NAN; slots.len() * 2 * cols]);
        slots.clear();
        for (&row, &context) in self.rows.iter().zip(&self.context_lens) {
            for position in 0..context as usize {
                let entry = row as usize * self.max_blocks_per_seq + position / block_size;
                slots.push(match self.block_tables[entry] {
                    u32::MAX => u32::MAX,
                    block => block * block_size as u32 + (position % block_size) as u32,
                });
            }
        }
        let pairs = keys.chunks(cols).zip(values.chunks(cols));
        let kv: Vec<f32> = pairs.flat_map(|(key, value)| [key, value].concat()).collect();
        self.write(spec, &slots, &kv);
    }

    fn write(&mut self, spec: &AttentionSpec, slots: &[u32], kv: &[f32]) {
        let args = RopeWriteKv {
            head_dim: spec.head_dim,
            num_q_heads: 0,
            num_kv_heads: spec.num_kv_heads,
            positions: slots.into(),
            slot_mapping: slots.into(),
            rope: None,
            norm: None,
        };
        let mut kv = kv.to_vec();
        let kv = ViewMut::from_f32(&mut kv, slots.len(), 2 * spec.num_kv_heads * spec.head_dim);
        rope_write_kv(&Device::cpu(1), kv, &mut self.kv, &args);
    }
}

/// Keys and values of each KV head of the `context` positions from `first` on, `[positions][head_dim]`, rounded as the pages
/// round.
pub(super) fn dense_heads(
    (keys, values): (&[f32], &[f32]),
    (first, context): (usize, usize),
    spec: &AttentionSpec,
    dtype: DType,
) -> Vec<(Vec<f32>, Vec<f32>)> {
    let (head_dim, kv_cols) = (spec.head_dim, spec.num_kv_heads * spec.head_dim);
    let dense = |rows: &[f32], kv_head: usize| -> Vec<f32> {
        let rows = rows[first * kv_cols..].chunks(kv_cols).take(context);
        let heads = rows.flat_map(|row| &row[kv_head * head_dim..(kv_head + 1) * head_dim]);
        heads.map(|&x| rounded(dtype, x)).collect()
    };
    let heads = 0..spec.num_kv_heads;
    heads.map(|kv_head| (dense(keys, kv_head), dense(values, kv_head))).collect()
}

fn expected(
    lengths: &[Lengths],
    spec: &AttentionSpec,
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    dtype: DType,
    sinks: Option<&[f32]>,
) -> Vec<f32> {
    let (num_q_heads, head_dim) = (spec.num_q_heads, spec.head_dim);
    let mut out = Vec::new();
    let margin = margin(spec);
    let mut queries = queries.chunks(num_q_heads * head_dim + 2 * margin);
    let mut first = 0;
    for &(context, num_queries) in lengths {
        let heads = dense_heads((keys, values), (first, context), spec, dtype);
        for position in context - num_queries..context {
            let query = &queries.next().expect("a row for each query")[margin..];
            for (head, query) in query.chunks_exact(head_dim).take(num_q_heads).enumerate() {
                let (keys, values) = &heads[head * spec.num_kv_heads / num_q_heads];
                let sink = sinks.map(|sinks| sinks[head]);
                out.extend(reference::attention_head(query, position, keys, values, spec, sink));
            }
        }
        first += context;
    }
    out
}
