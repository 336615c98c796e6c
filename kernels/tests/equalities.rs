//! Bit for bit: how a step is cut into batches, chunks, splits and threads never changes a row of attention.

use proptest::prelude::*;
use quire_kernels::cpu::SimdLevel;
use quire_kernels::{
    AttentionBatch, AttentionSpec, DType, Device, KvLayer, RopeStyle, RopeTable, RopeWriteKv,
    Tensor, attention, cases::random_f32, rope_write_kv,
};

const MAX_POSITIONS: usize = 4000;

/// One sequence: its q, k and v of every position, from a seed.
#[derive(Clone, Copy, Debug)]
struct Sequence {
    seed: u64,
    num_positions: usize,
}

#[derive(Clone, Copy, Debug)]
struct Model {
    num_q_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    block_size: usize,
    dtype: DType,
    causal: bool,
    window: Option<u32>,
    softcap: Option<f32>,
}

/// Positions `start..end` of sequence `index` in one step.
type Part = (usize, std::ops::Range<usize>);

/// A cache for all sequences and what it takes to run steps over it.
struct Runner {
    device: Device,
    model: Model,
    sequences: Vec<Sequence>,
    kv: KvLayer,
    rope: RopeTable,
    block_tables: Vec<u32>,
    max_blocks_per_seq: usize,
}

impl Runner {
    fn new(device: Device, model: Model, sequences: &[Sequence]) -> Self {
        let Model { num_kv_heads, head_dim, block_size, dtype, .. } = model;
        let longest =
            sequences.iter().map(|sequence| sequence.num_positions).max().expect("a sequence");
        let max_blocks_per_seq = longest.div_ceil(block_size);
        let num_blocks = max_blocks_per_seq * sequences.len();
        let frequencies: Vec<f32> = (0..head_dim / 2).map(|i| 1.0 / (1 + 3 * i) as f32).collect();
        // Neighbouring blocks of a sequence lie apart, and where depends on the sequences beside it.
        let block =
            |entry| (entry % max_blocks_per_seq) * sequences.len() + entry / max_blocks_per_seq;
        Self {
            model,
            sequences: sequences.to_vec(),
            kv: KvLayer::new(&device, dtype, num_blocks, block_size, num_kv_heads, head_dim)
                .expect("a small cache"),
            rope: RopeTable::new(&frequencies, 1.0, MAX_POSITIONS, RopeStyle::Neox)
                .expect("a small table"),
            block_tables: (0..num_blocks).map(|entry| block(entry) as u32).collect(),
            max_blocks_per_seq,
            device,
        }
    }

    /// Runs one step; returns the output row of each position of each part, in order.
    fn step(&mut self, parts: &[Part]) -> Vec<Vec<u32>> {
        let Model {
            num_q_heads, num_kv_heads, head_dim, block_size, causal, window, softcap, ..
        } = self.model;
        let (q_cols, cols) = (num_q_heads * head_dim, (num_q_heads + 2 * num_kv_heads) * head_dim);
        let (mut data, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        let mut query_start_loc = vec![0];
        for (index, range) in parts {
            let Sequence { seed, num_positions } = self.sequences[*index];
            let all = random_f32(seed, num_positions * cols);
            data.extend_from_slice(&all[range.start * cols..range.end * cols]);
            for position in range.clone() {
                let block =
                    self.block_tables[index * self.max_blocks_per_seq + position / block_size];
                positions.push(position as u32);
                slots.push(block * block_size as u32 + (position % block_size) as u32);
            }
            query_start_loc.push(positions.len() as u32);
        }
        let mut qkv = Tensor::from_f32(&data, positions.len(), cols);
        let args = RopeWriteKv {
            head_dim,
            num_q_heads,
            num_kv_heads,
            positions: (&positions).into(),
            slot_mapping: (&slots).into(),
            rope: Some(&self.rope),
            norm: None,
        };
        rope_write_kv(&self.device, qkv.view_mut(), &mut self.kv, &args);
        let mut out =
            Tensor::from_f32(&vec![f32::NAN; positions.len() * q_cols], positions.len(), q_cols);
        let context_lens: Vec<u32> = parts.iter().map(|(_, range)| range.end as u32).collect();
        let rows: Vec<u32> = parts.iter().map(|&(index, _)| index as u32).collect();
        let batch = AttentionBatch {
            query_start_loc: (&query_start_loc).into(),
            context_lens: (&context_lens).into(),
            block_tables: (&self.block_tables).into(),
            rows: (&rows).into(),
            max_blocks_per_seq: self.max_blocks_per_seq,
            replayed_with: None,
            branches: None,
        };
        let spec = AttentionSpec {
            num_q_heads,
            num_kv_heads,
            head_dim,
            scale: 0.7,
            causal,
            window,
            chunk: None,
            softcap,
        };
        let q = qkv.view().columns(0..q_cols);
        // Odd numbers of heads have sinks.
        let sinks = random_f32(9, num_q_heads);
        let sinks = (num_q_heads % 2 == 1).then(|| Tensor::from_f32(&sinks, 1, num_q_heads));
        attention(&self.device, out.view_mut(), q, &self.kv, &batch, &spec, sinks.as_ref());
        out.f32().chunks(q_cols).map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
    }
}

/// Every row of a sequence, computed alone, in one step, by one thread.
fn alone(simd: SimdLevel, model: Model, sequence: Sequence) -> Vec<Vec<u32>> {
    let mut runner = Runner::new(Device::cpu_with(1, simd), model, &[sequence]);
    let rows = runner.step(&[(0, 0..sequence.num_positions)]);
    assert!(rows.iter().flatten().all(|&bits| f32::from_bits(bits).is_finite()));
    rows
}

fn model() -> impl Strategy<Value = Model> {
    let heads = prop::sample::select(vec![(1, 1), (3, 1), (4, 2), (7, 1), (8, 1)]);
    let head_dim = prop::sample::select(vec![16, 18, 64, 80]);
    let dtype = prop::sample::select(vec![DType::F32, DType::F16, DType::BF16, DType::F8E4M3]);
    let window = prop::option::of(1_u32..1400);
    let block_size = prop::sample::select(vec![5, 8, 16, 32, 48]);
    let softcap = prop::option::of(Just(3.0_f32));
    (heads, head_dim, block_size, dtype, window, softcap).prop_map(
        |((num_q_heads, num_kv_heads), head_dim, block_size, dtype, window, softcap)| Model {
            num_q_heads,
            num_kv_heads,
            head_dim,
            block_size,
            dtype,
            causal: true,
            window,
            softcap,
        },
    )
}

/// Lengths around the borders of chunks and ranges, and anything else.
fn sequences() -> impl Strategy<Value = Vec<Sequence>> {
    let border = prop::sample::select(vec![1, 5, 63, 64, 65, 129, 1023, 1024, 1025, 1100, 2049]);
    let num_positions = prop_oneof![border, 1..300_usize];
    let sequence = (1_u64..1000, num_positions)
        .prop_map(|(seed, num_positions)| Sequence { seed, num_positions });
    prop::collection::vec(sequence, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Chunks of random sizes (decode steps among them) beside random neighbours on three threads give the rows that
    /// one thread gives for each whole sequence alone.
    #[test]
    fn chunks_neighbours_and_threads_change_no_bit(
        model in model(),
        sequences in sequences(),
        sizes in prop::collection::vec(prop_oneof![Just(1_usize), 1..100_usize, 1..1200_usize], 8),
        turns in prop::collection::vec(any::<bool>(), 5),
    ) {
        for simd in SimdLevel::available() {
            let mut runner = Runner::new(Device::cpu_with(3, simd), model, &sequences);
            let mut rows: Vec<Vec<Vec<u32>>> = vec![Vec::new(); sequences.len()];
            let (mut sizes, mut turns) = (sizes.iter().cycle(), turns.iter().cycle());
            let is_done = |(rows, s): (&Vec<Vec<u32>>, &Sequence)| rows.len() == s.num_positions;
            while !rows.iter().zip(&sequences).all(is_done) {
                let mut parts: Vec<Part> = Vec::new();
                for (index, sequence) in sequences.iter().enumerate() {
                    let start = rows[index].len();
                    let is_last = rows[index + 1..].iter().zip(&sequences[index + 1..]).all(is_done);
                    let takes_turn = *turns.next().unwrap() || (is_last && parts.is_empty());
                    if start < sequence.num_positions && takes_turn {
                        let end = sequence.num_positions.min(start + sizes.next().unwrap());
                        parts.push((index, start..end));
                    }
                }
                let mut step = runner.step(&parts).into_iter();
                for (index, range) in &parts {
                    rows[*index].extend(step.by_ref().take(range.len()));
                }
            }
            for (rows, &sequence) in rows.iter().zip(&sequences) {
                let expected = alone(simd, model, sequence);
                for (position, (got, expected)) in rows.iter().zip(&expected).enumerate() {
                    prop_assert!(got == expected, "{:?}: {:?} at {}", simd, sequence, position);
                }
            }
        }
    }

    /// Where queries see what follows them, too: whole sequences beside others on three threads, in any order.
    #[test]
    fn neighbours_change_no_bit_of_attention_in_both_directions(
        model in model(),
        sequences in sequences(),
    ) {
        let model = Model { causal: false, ..model };
        for simd in SimdLevel::available() {
            let mut runner = Runner::new(Device::cpu_with(3, simd), model, &sequences);
            let whole = |(index, sequence): (usize, &Sequence)| (index, 0..sequence.num_positions);
            let parts: Vec<Part> = sequences.iter().enumerate().rev().map(whole).collect();
            let mut rows = runner.step(&parts).into_iter();
            for sequence in sequences.iter().rev() {
                let got: Vec<_> = rows.by_ref().take(sequence.num_positions).collect();
                prop_assert!(got == alone(simd, model, *sequence), "{:?}: {:?}", simd, sequence);
            }
        }
    }

    /// The last positions, decoded in one batch and split over threads, equal the last row of each prefill.
    #[test]
    fn decode_is_the_last_row_of_prefill(model in model(), sequences in sequences()) {
        for simd in SimdLevel::available() {
            let mut runner = Runner::new(Device::cpu_with(3, simd), model, &sequences);
            let ends = || sequences.iter().map(|sequence| sequence.num_positions).enumerate();
            let prefill: Vec<Part> =
                ends().filter(|&(_, end)| end > 1).map(|(index, end)| (index, 0..end - 1)).collect();
            runner.step(&prefill);
            let decode: Vec<Part> = ends().map(|(index, end)| (index, end - 1..end)).collect();
            for (row, &sequence) in runner.step(&decode).iter().zip(&sequences) {
                let expected = alone(simd, model, sequence);
                prop_assert!(Some(row) == expected.last(), "{:?}: {:?}", simd, sequence);
            }
        }
    }
}

/// A context of several ranges: they are computed by different threads and folded in order.
#[test]
fn a_long_context_split_over_threads_equals_the_whole() {
    let model = Model {
        num_q_heads: 3,
        num_kv_heads: 1,
        head_dim: 64,
        block_size: 16,
        dtype: DType::BF16,
        causal: true,
        window: None,
        softcap: None,
    };
    let sequence = Sequence { seed: 7, num_positions: 3900 };
    for simd in SimdLevel::available() {
        let mut runner = Runner::new(Device::cpu_with(3, simd), model, &[sequence]);
        let mut rows = runner.step(&[(0, 0..3880)]);
        rows.extend(runner.step(&[(0, 3880..3899)]));
        rows.extend(runner.step(&[(0, 3899..3900)]));
        assert!(rows == alone(simd, model, sequence), "{simd:?}");
    }
}
