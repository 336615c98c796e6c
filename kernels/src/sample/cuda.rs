//! `sample` and `logprobs` on a GPU: a block a row (`sample.cu`), the CPU's tokens.

use super::{SampleRow, Sampled};
use crate::cuda::{
    Argument, CudaDevice, DeviceBuffer, Grid, Pointer, Structure, bytes_of, word_bytes,
};
use crate::tensor::View;

const THREADS: usize = 1024;

/// Likeliest tokens that a row can ask for: what a block lists.
pub const MAX_NUM_LOGPROBS_ON_CUDA: u32 = 2048;

/// `SampleFlags` in `sample.cu`.
const CHANGES: u32 = 1;
const PENALTIES: u32 = 2;
const HAS_MASK: u32 = 4;
const GREEDY: u32 = 8;
const REPORTS: u32 = 16;
const HAS_TARGET: u32 = 32;

/// Bytes that each list begins at a multiple of.
const ALIGNMENT: usize = 256;

/// Words of a row's answer: token, finite, log-probability, rank.
pub(super) const ANSWER_WORDS: usize = 4;

/// As in `sample.cu`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct DeviceSampleRow {
    seed: u64,
    log_min_p: f64,
    temperature: f32,
    inverse_temperature: f32,
    top_p: f32,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    pub(super) flags: u32,
    top_k: u32,
    position: u32,
    pub(super) num_top: u32,
    target: u32,
    prompt: [u32; 2],
    output: [u32; 2],
    bias: [u32; 2],
    pub(super) mask: [u32; 2],
    banned: [u32; 2],
    /// Which row of `work` and `counts` is this one's.
    changed_row: u32,
    /// From this position on only so many of the banned are.
    min_position: u32,
    num_always_banned: u32,
}

// SAFETY: two numbers of 64 bits, then 24 of 32 bits, as in the source.
unsafe impl Structure for DeviceSampleRow {}

/// As in `sample.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct SampleArgs {
    pub(super) out: Pointer,
    pub(super) tops: Pointer,
    pub(super) logits: Pointer,
    pub(super) work: Pointer,
    pub(super) counts: Pointer,
    pub(super) rows: Pointer,
    pub(super) words: Pointer,
    pub(super) table_rows: Pointer,
    pub(super) positions: Pointer,
    pub(super) sampled: Pointer,
    pub(super) vocabulary: i32,
    pub(super) logits_stride: i32,
    pub(super) max_top: i32,
    pub(super) words_stride: i32,
}

// SAFETY: ten addresses, then four numbers of 32 bits, as in the source.
unsafe impl Structure for SampleArgs {}

/// A block for each of `num_rows` rows of logits.
pub(super) fn launch(cuda: &CudaDevice, num_rows: usize, args: &SampleArgs) {
    cuda.launch("sample_rows", Grid::new(num_rows, THREADS), &[Argument::structure(args)]);
}

pub(super) fn sample(cuda: &CudaDevice, out: &mut [Sampled], logits: &View, rows: &[SampleRow]) {
    let mut words = Vec::new();
    let bans = BansBefore::default();
    let mut rows: Vec<_> = rows.iter().map(|row| device_row(row, bans, &mut words)).collect();
    let changed = rows.iter_mut().filter(|row| row.flags & CHANGES != 0);
    changed.enumerate().for_each(|(index, row)| row.changed_row = index as u32);
    run(cuda, out, logits, &rows, &words);
}

pub(super) fn logprobs(
    cuda: &CudaDevice,
    out: &mut [Sampled],
    logits: &View,
    targets: &[u32],
    num_top: &[u32],
) {
    let row = |(&target, &num_top)| DeviceSampleRow {
        flags: REPORTS | HAS_TARGET,
        target,
        num_top,
        ..DeviceSampleRow::default()
    };
    let rows: Vec<_> = targets.iter().zip(num_top).map(row).collect();
    run(cuda, out, logits, &rows, &[]);
}

/// Bans that end: from output position `position` on, only the first `num_always` of the banned are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BansBefore {
    pub position: u32,
    pub num_always: u32,
}

/// Lists go to `words`; the row has where they begin, and how many entries they have.
pub(super) fn device_row(
    row: &SampleRow,
    bans: BansBefore,
    words: &mut Vec<u32>,
) -> DeviceSampleRow {
    let mut list = |entries: &mut dyn Iterator<Item = u32>, width: usize| {
        let start = words.len();
        words.extend(entries);
        [start as u32, ((words.len() - start) / width) as u32]
    };
    let has_penalties = row.has_penalties();
    let penalized: (&[u32], &[u32]) =
        if has_penalties { (row.prompt_tokens, row.output_tokens) } else { (&[], &[]) };
    let mut flags = 0;
    for (is_set, flag) in [
        (row.changes_logits(), CHANGES),
        (has_penalties, PENALTIES),
        (row.allowed.is_some(), HAS_MASK),
        (row.is_greedy(), GREEDY),
        (row.num_logprobs.is_some(), REPORTS),
    ] {
        flags |= if is_set { flag } else { 0 };
    }
    // The output comes last: there it may grow.
    let bias = list(&mut row.logit_bias.iter().flat_map(|&(id, bias)| [id, bias.to_bits()]), 2);
    let mask = list(&mut row.allowed.unwrap_or_default().iter().copied(), 1);
    let banned = list(&mut row.banned.iter().copied(), 1);
    let prompt = list(&mut penalized.0.iter().copied(), 1);
    let output = list(&mut penalized.1.iter().copied(), 1);
    let keeps_all = !matches!(row.min_p.partial_cmp(&0.0), Some(order) if order.is_gt());
    DeviceSampleRow {
        seed: row.seed,
        log_min_p: if keeps_all { f64::NEG_INFINITY } else { f64::from(row.min_p.min(1.0)).ln() },
        temperature: row.temperature,
        inverse_temperature: 1.0 / row.temperature,
        top_p: row.top_p,
        repetition_penalty: row.repetition_penalty,
        presence_penalty: row.presence_penalty,
        frequency_penalty: row.frequency_penalty,
        flags,
        top_k: row.top_k,
        position: row.position,
        num_top: row.num_logprobs.unwrap_or(0),
        target: 0,
        prompt,
        output,
        bias,
        mask,
        banned,
        changed_row: 0,
        min_position: bans.position,
        num_always_banned: if bans.position > 0 {
            bans.num_always
        } else {
            row.banned.len() as u32
        },
    }
}

fn run(
    cuda: &CudaDevice,
    out: &mut [Sampled],
    logits: &View,
    rows: &[DeviceSampleRow],
    words: &[u32],
) {
    if rows.is_empty() {
        return;
    }
    let vocabulary = logits.cols();
    let max_top = rows.iter().map(|row| row.num_top).max().unwrap_or(0);
    assert!(max_top <= MAX_NUM_LOGPROBS_ON_CUDA, "{max_top} log-probabilities on CUDA");
    let (answer_bytes, top_bytes) = (4 * ANSWER_WORDS, 8 * max_top as usize);
    let num_changed = rows.iter().filter(|row| row.flags & CHANGES != 0).count();
    let processed = 4 * num_changed * vocabulary;
    let sizes = [
        answer_bytes * rows.len(),
        top_bytes * rows.len(),
        size_of_val(rows),
        size_of_val(words),
        processed,
        processed,
    ];
    let mut end = 0;
    let starts = sizes.map(|size| {
        let start = end;
        end = (start + size).next_multiple_of(ALIGNMENT);
        start
    });
    let own = (end > cuda.scratch().bytes()).then(|| {
        DeviceBuffer::zeroed(cuda.context(), end).expect("the sampler's memory fits the GPU")
    });
    let memory = own.as_ref().unwrap_or(cuda.scratch());
    let [answers, tops, settings, lists, work, counts] = starts;
    memory.write(settings, bytes_of(rows));
    memory.write(lists, word_bytes(words));
    memory.clear(counts, processed);
    let at = |start| memory.pointer().add(start);
    let args = SampleArgs {
        out: at(answers),
        tops: at(tops),
        logits: logits.pointer(),
        work: at(work),
        counts: at(counts),
        rows: at(settings),
        words: at(lists),
        table_rows: Pointer::NULL,
        positions: Pointer::NULL,
        sampled: Pointer::NULL,
        vocabulary: int(vocabulary),
        logits_stride: int(logits.row_stride()),
        max_top: int(max_top as usize),
        words_stride: 0,
    };
    launch(cuda, rows.len(), &args);
    let mut bytes = vec![0; tops + sizes[1]];
    memory.read(answers, &mut bytes);
    let (heads, tops) = bytes.split_at(tops);
    for (index, out) in out.iter_mut().enumerate() {
        let head = &heads[answer_bytes * index..answer_bytes * (index + 1)];
        read_answer(out, head, &tops[top_bytes * index..top_bytes * (index + 1)]);
    }
}

pub(super) fn int(number: usize) -> i32 {
    i32::try_from(number).expect("sizes of the sampler fit an int")
}

/// `head`: the four words of a row; `tops`: pairs of token and log-probability, the most that a row can have.
pub(super) fn read_answer(out: &mut Sampled, head: &[u8], tops: &[u8]) {
    out.clear();
    let mut words = head.as_chunks::<4>().0.iter().map(|&bytes| u32::from_le_bytes(bytes));
    let mut next = || words.next().expect("a row has its head");
    out.token = next();
    out.finite = next() == 1;
    out.logprob = f32::from_bits(next());
    out.rank = next();
    if !out.finite {
        return out.clear();
    }
    if out.rank == 0 {
        return; // nothing was reported
    }
    let pair = |pair: &[u8; 8]| {
        let [low, high] = [0, 4].map(|at: usize| {
            u32::from_le_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]])
        });
        (low, f32::from_bits(high))
    };
    // Places that no token took have no id.
    let pairs = tops.as_chunks::<8>().0.iter().map(pair);
    out.top.extend(pairs.take_while(|&(token, _)| token != u32::MAX));
}

#[cfg(test)]
mod tests {
    use crate::cases::{Kind, in_place, random_f32};
    use crate::device::Device;
    use crate::sample::{SampleRow, Sampled, sample};
    use crate::tensor::ViewMut;

    const VOCABULARY: usize = 5000;

    /// Of every kind of setting some.
    fn rows<'a>(
        tokens: &'a [u32],
        biases: &'a [(u32, f32)],
        mask: &'a [u32],
    ) -> Vec<SampleRow<'a>> {
        let plain = SampleRow { temperature: 1.0, ..SampleRow::default() };
        let changed = SampleRow {
            repetition_penalty: 1.3,
            presence_penalty: -0.7,
            frequency_penalty: 0.3,
            prompt_tokens: &tokens[..60],
            output_tokens: &tokens[60..],
            logit_bias: biases,
            ..plain
        };
        let mut rows = Vec::new();
        for seed in 0..6 {
            for (top_k, top_p, min_p) in [
                (0, 1.0, 0.0),
                (1, 1.0, 0.0),
                (3000, 1.0, 0.0),
                (0, 0.9, 0.0),
                (0, 0.9999, 0.0),
                (0, 0.0, 0.0),
                (0, 1.0, 0.1),
                (50, 0.5, 0.001),
            ] {
                let temperature = [0.3, 1.0, 30.0][seed as usize % 3];
                let row = match seed % 4 {
                    0 => plain,
                    1 => SampleRow { num_logprobs: Some(7), ..changed },
                    2 => SampleRow { allowed: Some(mask), ..plain },
                    _ => SampleRow { banned: &tokens[..9], allowed: Some(mask), ..changed },
                };
                rows.push(SampleRow {
                    top_k,
                    top_p,
                    min_p,
                    temperature,
                    seed,
                    position: rows.len() as u32,
                    ..row
                });
            }
        }
        rows
    }

    #[test]
    fn tokens_are_those_of_the_cpu() {
        let _emulator = quire_sim::load();
        let cuda = Device::cuda(0).expect("the emulator is a GPU");
        let token = |value: &f32| (value.abs() * 5100.0) as u32;
        let tokens: Vec<u32> = random_f32(5, 200).iter().map(token).collect();
        let biases: Vec<(u32, f32)> =
            tokens[..30].iter().map(|&t| (t % 20, t as f32 / 900.0)).collect();
        let mask: Vec<u32> = random_f32(6, 150).iter().map(|value| value.to_bits() ^ 255).collect();
        let rows = rows(&tokens, &biases, &mask);
        let size = (rows.len(), VOCABULARY);
        // Many ties; logits of one row are not numbers, another has nothing to choose.
        let logits = random_f32(7, rows.len() * VOCABULARY);
        let mut logits: Vec<f32> = logits.iter().map(|x| (x * 200.0).round() / 16.0).collect();
        logits[4 * VOCABULARY + 77] = f32::NAN;
        logits[9 * VOCABULARY..10 * VOCABULARY].fill(f32::NEG_INFINITY);
        let mut expected = vec![Sampled::default(); rows.len()];
        let mut copy = logits.clone();
        let view = ViewMut::from_f32(&mut copy, size.0, size.1);
        sample(&Device::cpu(1), &mut expected, view, &rows);
        let mut got = vec![Sampled::default(); rows.len()];
        in_place(&cuda, Kind::Numbers, &mut logits, size, |logits| {
            sample(&cuda, &mut got, logits, &rows);
        });
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert_eq!((got.token, got.finite), (expected.token, expected.finite), "row {index}");
            assert_eq!((got.rank, got.top.len()), (expected.rank, expected.top.len()));
            let pairs = got.top.iter().zip(&expected.top);
            assert!(
                pairs.clone().all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-6),
                "row {index}"
            );
            assert!((got.logprob - expected.logprob).abs() < 1e-6, "row {index}");
        }
    }
}
