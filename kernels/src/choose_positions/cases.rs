//! Shapes that test and time `choose_positions`.

use super::{IndexSpec, choose_positions, reference};
use crate::attention::AttentionBatch;
use crate::cases::{Case, Input, Kind, NO_CUDA_KERNEL, Work, random_activations, random_f32};
use crate::device::Device;
use crate::index_layer::IndexLayer;
use crate::tensor::DType;

/// `(queries, context)` of each sequence, heads, channels, positions of a query, positions of a block.
type Shape = (&'static [(usize, usize)], usize, usize, usize, usize);

const SHAPES: [Shape; 4] = [
    (&[(1, 1)], 1, 8, 3, 4),
    (&[(3, 40), (0, 0), (1, 130), (7, 9)], 5, 24, 20, 8),
    (&[(2, 65)], 16, 16, 64, 16),
    (&[(1, 3000), (1, 700)], 32, 128, 256, 16),
];

/// Of few different keys, so that scores are equal, and with a table so wide that a GPU takes two rows at a time.
const EQUAL: Shape = (&[(2, 1500), (1, 90)], 20, 64, 77, 8);
const NUM_KEYS: u64 = 5;
const WIDE_TABLE: usize = 1 << 20;

pub fn cases() -> Vec<Case> {
    let dtypes = [DType::F32, DType::F16, DType::BF16];
    let usual = SHAPES.into_iter().flat_map(|shape| dtypes.map(|dtype| case(shape, false, dtype)));
    usual.chain([case(EQUAL, true, DType::BF16)]).collect()
}

fn case((lens, num_heads, head_dim, top_k, block_size): Shape, equal: bool, dtype: DType) -> Case {
    let num_keys = if equal { NUM_KEYS } else { u64::MAX };
    let spec = IndexSpec { num_heads, head_dim, top_k };
    let rows: usize = lens.iter().map(|&(queries, _)| queries).sum();
    let (queries, weights) =
        (random_activations(81, rows * num_heads * head_dim), random_f32(82, rows * num_heads));
    let mut query_input =
        Input::new(Kind::Activations, queries.clone(), rows, num_heads * head_dim);
    let mut weight_input = Input::new(Kind::Numbers, weights.clone(), rows, num_heads);
    let num_blocks: usize = lens.iter().map(|&(_, context)| context.div_ceil(block_size)).sum();
    let mut keys = IndexLayer::new(&Device::cpu(1), dtype, num_blocks, block_size, head_dim)
        .expect("a small cache");
    for slot in 0..num_blocks * block_size {
        keys.write(slot as u32, &random_f32(100 + slot as u64 % num_keys, head_dim));
    }
    // Blocks fall from sequence to sequence and rise inside one.
    let most = lens.iter().map(|&(_, context)| context.div_ceil(block_size)).max().unwrap_or(0);
    let most = if equal { WIDE_TABLE } else { most };
    let (mut tables, mut starts, mut next) = (Vec::new(), vec![0_u32], num_blocks);
    for &(num_queries, context) in lens {
        let count = context.div_ceil(block_size);
        next -= count;
        let row = (next..next + count).map(|block| block as u32);
        tables.extend(row.chain(std::iter::repeat_n(u32::MAX, most - count)));
        starts.push(starts[starts.len() - 1] + num_queries as u32);
    }
    let context_lens: Vec<u32> = lens.iter().map(|&(_, context)| context as u32).collect();
    let expected = expected(lens, (&queries, &weights), &keys, &tables, spec);
    let mut on_cuda = None;
    Case {
        op: "choose_positions",
        name: format!("{rows} rows, {top_k} of {lens:?}, {num_heads}x{head_dim} {dtype:?}"),
        work: Work {
            bytes: (num_blocks * block_size * head_dim * dtype.size()) as u64,
            operations: lens.iter().map(|&(q, c)| (2 * q * c * num_heads * head_dim) as u64).sum(),
        },
        tolerance: 0.0,
        cuda_tolerance: if dtype == DType::BF16 { 0.0 } else { NO_CUDA_KERNEL },
        output_len: rows * top_k,
        run: Box::new(move |device, output| {
            let mut out = device.allocate(DType::U32, rows, top_k).expect("a small tensor");
            let seqs: Vec<u32> = (0..context_lens.len() as u32).collect();
            let batch = AttentionBatch {
                query_start_loc: (&starts).into(),
                context_lens: (&context_lens).into(),
                block_tables: (&tables).into(),
                rows: (&seqs).into(),
                max_blocks_per_seq: most,
                replayed_with: None,
                branches: None,
            };
            let (queries, weights) = (query_input.view(device), weight_input.view(device));
            let keys = match device {
                Device::Cuda(_) => on_cuda.get_or_insert_with(|| keys.copied_to(device)),
                _ => &keys,
            };
            choose_positions(device, &mut out, queries, weights, keys, &batch, &spec);
            output.iter_mut().zip(out.read().u32()).for_each(|(out, &at)| *out = at as f32);
        }),
        reference: Box::new(move || expected.clone()),
    }
}

/// Places behind the chosen positions are 0, as the tensor was.
fn expected(
    lens: &[(usize, usize)],
    (queries, weights): (&[f32], &[f32]),
    keys: &IndexLayer,
    tables: &[u32],
    spec: IndexSpec,
) -> Vec<f32> {
    let IndexSpec { num_heads, head_dim, top_k } = spec;
    let mut rows = queries.chunks(num_heads * head_dim).zip(weights.chunks(num_heads));
    let most = tables.len() / lens.len();
    let mut out = Vec::new();
    for (&(num_queries, context), table) in lens.iter().zip(tables.chunks(most)) {
        let size = keys.block_size();
        let slot =
            |position: usize| table[position / size] * size as u32 + (position % size) as u32;
        let all: Vec<Vec<f32>> = (0..context).map(|at| keys.read_slot(slot(at))).collect();
        for query in 0..num_queries {
            let (queries, weights) = rows.next().expect("a row a query");
            let seen = &all[..=context - num_queries + query];
            let mut chosen = reference::choose_positions(queries, weights, seen, top_k);
            chosen.resize(top_k, 0);
            out.extend(chosen.iter().map(|&at| at as f32));
        }
    }
    out
}
