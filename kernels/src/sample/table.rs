//! The sampler's settings of every row of a sequence table, kept on a GPU: lists travel when a row is given to a sequence,
//! then each sampled token stays there, for the next step to compute and for penalties to count.

use std::collections::VecDeque;

use super::cuda::{
    ANSWER_WORDS, BansBefore, DeviceSampleRow, MAX_NUM_LOGPROBS_ON_CUDA, SampleArgs, device_row,
    int, launch, read_answer,
};
use super::{MAX_VOCABULARY, SampleRow, Sampled};
use crate::cuda::{CudaDevice, DeviceBuffer, PinnedBuffer, bytes_of, word_bytes};
use crate::device::DeviceError;
use crate::indices::Indices;
use crate::tensor::{DType, Tensor, ViewMut};

/// What a table has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleLimits {
    /// Rows of the table.
    pub num_rows: usize,
    /// Rows of logits in one call of `sample`.
    pub num_logits_rows: usize,
    pub vocabulary: usize,
    /// Tokens of a sequence, its last one included.
    pub max_tokens: usize,
    pub max_biases: usize,
    pub max_banned: usize,
    /// At most `MAX_NUM_LOGPROBS_ON_CUDA`.
    pub max_logprobs: u32,
}

impl SampleLimits {
    /// Words of a row's lists.
    fn list_words(&self) -> usize {
        let mask = self.vocabulary.div_ceil(32);
        let lists = [self.max_biases, self.max_biases, self.max_banned, self.max_tokens];
        lists.into_iter().fold(mask, usize::saturating_add)
    }

    /// Bytes of an answer with all log-probabilities.
    fn answer_bytes(&self) -> usize {
        4 * ANSWER_WORDS + self.top_bytes()
    }

    fn top_bytes(&self) -> usize {
        8 * self.max_logprobs as usize
    }

    /// Bytes that a table takes on the GPU.
    pub fn num_bytes(&self) -> u64 {
        let words = self.list_words().saturating_mul(4);
        let row = words.saturating_add(size_of::<DeviceSampleRow>() + 4 + self.answer_bytes());
        let processed = 2 * 4 * self.num_logits_rows as u64 * self.vocabulary as u64;
        (self.num_rows as u64).saturating_mul(row as u64).saturating_add(processed)
    }
}

/// Answers that may be on their way while the next step is launched.
const NUM_REPLIES: usize = 2;

/// Bytes that settings are copied through at once.
const STAGING_BYTES: usize = 1 << 20;

/// See above.
pub struct SampleTable {
    limits: SampleLimits,
    /// `DeviceSampleRow`s.
    rows: DeviceBuffer,
    /// `[num_rows, list_words]`.
    words: DeviceBuffer,
    /// The token that each row got last.
    sampled: Tensor,
    answers: DeviceBuffer,
    tops: DeviceBuffer,
    /// `[num_logits_rows, vocabulary]` of floats, and of counts, all 0 between steps.
    work: DeviceBuffer,
    counts: DeviceBuffer,
    staging: PinnedBuffer,
    /// Of `set_masks`, whose copies wait for steps that `staging` must not wait for.
    masks: PinnedBuffer,
    /// By row, where its mask begins among its words, and how many words it has.
    mask_places: Vec<[u32; 2]>,
    replies: [PinnedBuffer; NUM_REPLIES],
    next_reply: usize,
    waiting: VecDeque<Reply>,
    lists: Vec<u32>,
}

/// Answers on their way to the host.
#[derive(Clone, Copy)]
struct Reply {
    index: usize,
    num_rows: usize,
    has_logprobs: bool,
}

impl SampleTable {
    pub fn new(cuda: &CudaDevice, limits: SampleLimits) -> Result<Self, DeviceError> {
        let context = cuda.context();
        let SampleLimits { num_rows, num_logits_rows, vocabulary, max_logprobs, .. } = limits;
        assert!(max_logprobs <= MAX_NUM_LOGPROBS_ON_CUDA && vocabulary <= MAX_VOCABULARY);
        let zeroed = |bytes| DeviceBuffer::zeroed(context, bytes);
        let sampled = zeroed(4 * num_rows)?;
        let reply = || PinnedBuffer::new(context, num_rows * limits.answer_bytes());
        Ok(Self {
            limits,
            rows: zeroed(num_rows * size_of::<DeviceSampleRow>())?,
            words: zeroed(4 * num_rows * limits.list_words())?,
            sampled: Tensor::on_cuda(sampled, DType::U32, 1, num_rows),
            answers: zeroed(4 * ANSWER_WORDS * num_rows)?,
            tops: zeroed(limits.top_bytes() * num_rows)?,
            work: zeroed(4 * num_logits_rows * vocabulary)?,
            counts: zeroed(4 * num_logits_rows * vocabulary)?,
            staging: PinnedBuffer::new(context, STAGING_BYTES)?,
            masks: PinnedBuffer::new(context, 4 * num_rows * vocabulary.div_ceil(32))?,
            mask_places: vec![[0; 2]; num_rows],
            replies: [reply()?, reply()?],
            next_reply: 0,
            waiting: VecDeque::with_capacity(NUM_REPLIES),
            lists: Vec::with_capacity(limits.list_words()),
        })
    }

    /// Gives rows of the table to sequences: `row.prompt_tokens` and `row.output_tokens` are what they have so far, and
    /// `row.banned` what is banned before `BansBefore::position`. `row.position` is not read.
    pub fn admit<'a>(&mut self, rows: impl Iterator<Item = (u32, SampleRow<'a>, BansBefore)>) {
        let (row_bytes, words) = (size_of::<DeviceSampleRow>(), self.limits.list_words());
        self.staging.restart();
        for (index, row, bans) in rows {
            let index = index as usize;
            assert!(index < self.limits.num_rows, "row {index} of {}", self.limits.num_rows);
            self.lists.clear();
            let settings = device_row(&row, bans, &mut self.lists);
            assert!(settings.num_top <= self.limits.max_logprobs, "log-probabilities of a row");
            assert!(self.lists.len() <= words, "the lists of a row are longer than planned");
            self.mask_places[index] = settings.mask;
            self.staging.copy(bytes_of(&[settings]), &self.rows, index * row_bytes);
            self.staging.copy(word_bytes(&self.lists), &self.words, 4 * index * words);
        }
        self.staging.finish();
    }

    /// Behind what was launched: rows of the table get the tokens of new masks alone. Each row was given out with `allowed`, of
    /// as many words.
    pub fn set_masks<'a>(&mut self, masks: impl Iterator<Item = (u32, &'a [u32])>) {
        self.masks.restart();
        for (row, mask) in masks {
            let [start, num_words] = self.mask_places[row as usize];
            assert_eq!(mask.len(), num_words as usize, "words of the mask of row {row}");
            let start = row as usize * self.limits.list_words() + start as usize;
            self.masks.copy(word_bytes(mask), &self.words, 4 * start);
        }
        self.masks.finish();
    }

    /// By row, the token that was sampled last: `[1, num_rows]` U32.
    pub fn sampled(&self) -> &Tensor {
        &self.sampled
    }

    /// Samples a token for each row of `logits` (`[n, vocabulary]` F32, n at most `num_logits_rows`): for row
    /// `table_rows[i]` of the table (`u32::MAX`: for none), which has `positions[i]` output tokens. The answers are those
    /// of the step from its `first` on.
    pub fn sample(
        &self,
        cuda: &CudaDevice,
        logits: &ViewMut,
        table_rows: Indices,
        positions: Indices,
        first: usize,
    ) {
        let limits = &self.limits;
        let num_rows = logits.rows();
        assert_eq!((table_rows.len(), positions.len()), (num_rows, num_rows), "rows");
        assert_eq!((logits.cols(), logits.dtype()), (limits.vocabulary, DType::F32), "logits");
        assert!(num_rows <= limits.num_logits_rows && first + num_rows <= limits.num_rows);
        let (rows, positions) = (table_rows.on(cuda), positions.on(cuda));
        let args = SampleArgs {
            out: self.answers.pointer().add(4 * ANSWER_WORDS * first),
            tops: self.tops.pointer().add(limits.top_bytes() * first),
            logits: logits.as_view().pointer(),
            work: self.work.pointer(),
            counts: self.counts.pointer(),
            rows: self.rows.pointer(),
            words: self.words.pointer(),
            table_rows: rows.pointer(),
            positions: positions.pointer(),
            sampled: self.sampled.view().pointer(),
            vocabulary: int(limits.vocabulary),
            logits_stride: int(logits.as_view().row_stride()),
            max_top: int(limits.max_logprobs as usize),
            words_stride: int(limits.list_words()),
        };
        launch(cuda, num_rows, &args);
    }

    /// Starts to copy the first `num_rows` answers to the host, behind everything launched before.
    pub fn fetch(&mut self, num_rows: usize, has_logprobs: bool) {
        assert!(self.waiting.len() < NUM_REPLIES, "too many steps are in flight");
        let index = self.next_reply;
        self.next_reply = (index + 1) % NUM_REPLIES;
        let reply = &mut self.replies[index];
        reply.restart();
        reply.receive(&self.answers, 4 * ANSWER_WORDS * num_rows);
        if has_logprobs {
            reply.receive(&self.tops, self.limits.top_bytes() * num_rows);
        }
        reply.finish();
        self.waiting.push_back(Reply { index, num_rows, has_logprobs });
    }

    /// Waits for the answers fetched first that were not taken yet: one for each row. `out` keeps its memory.
    pub fn take(&mut self, out: &mut Vec<Sampled>) {
        let reply = self.waiting.pop_front().expect("what was fetched is taken once");
        let bytes = self.replies[reply.index].wait();
        let (heads, tops) = bytes.split_at(4 * ANSWER_WORDS * reply.num_rows);
        if out.len() < reply.num_rows {
            out.resize_with(reply.num_rows, Sampled::default);
        }
        let heads = heads.as_chunks::<{ 4 * ANSWER_WORDS }>().0;
        for (index, (out, head)) in out.iter_mut().zip(heads).enumerate() {
            let top_bytes = if reply.has_logprobs { self.limits.top_bytes() } else { 0 };
            read_answer(out, head, &tops[top_bytes * index..top_bytes * (index + 1)]);
        }
    }

    /// Answers that were not taken are of no use any more.
    pub fn forget(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::random_f32;
    use crate::device::Device;
    use crate::sample::sample;
    use quire_sim::Asynchrony;

    const VOCABULARY: usize = 300;
    const LIMITS: SampleLimits = SampleLimits {
        num_rows: 8,
        num_logits_rows: 4,
        vocabulary: VOCABULARY,
        max_tokens: 50,
        max_biases: 20,
        max_banned: 20,
        max_logprobs: 9,
    };

    /// Of row 3, a mask a step.
    const MASKS: [[u32; 3]; 4] = [[0xFFFF, 0, 77], [0, 1 << 9, 0], [!0, !0, !0], [0, 0, 0xF0]];

    /// Settings of the table's rows, and how their bans end.
    fn settings(row: usize) -> (SampleRow<'static>, BansBefore) {
        const BANNED: [u32; 6] = [5, 6, 7, 290, 11, 13];
        let plain = SampleRow { temperature: 0.9, seed: row as u64, ..SampleRow::default() };
        match row {
            0 => (SampleRow::default(), BansBefore::default()),
            1 => (SampleRow { num_logprobs: Some(9), ..plain }, BansBefore::default()),
            2 => {
                let bans = BansBefore { position: 2, num_always: 1 };
                (SampleRow { banned: &BANNED, logit_bias: &[(5, 9.0), (7, 9.0)], ..plain }, bans)
            }
            3 => {
                let allowed = Some(&MASKS[0][..]);
                (SampleRow { allowed, num_logprobs: Some(0), ..plain }, BansBefore::default())
            }
            // Strong enough that the tokens of steps before decide.
            _ => {
                let penalties =
                    SampleRow { presence_penalty: 1.5, frequency_penalty: 2.0, ..plain };
                let row = SampleRow { repetition_penalty: 1.5, temperature: 0.0, ..penalties };
                (row, BansBefore { position: 1, num_always: 0 })
            }
        }
    }

    /// What each row has got, step after step.
    fn expected(logits: &[Vec<f32>], rows: &[u32], prompts: &[Vec<u32>]) -> Vec<Vec<Sampled>> {
        let mut outputs = vec![Vec::new(); rows.len()];
        let mut steps = Vec::new();
        for (step, logits) in logits.iter().enumerate() {
            let mut got = vec![Sampled::default(); rows.len()];
            let wants: Vec<SampleRow> = rows
                .iter()
                .enumerate()
                .map(|(index, &row)| {
                    let (want, bans) = settings(row as usize);
                    let position = outputs[index].len() as u32;
                    let end = if position < bans.position {
                        want.banned.len()
                    } else {
                        bans.num_always as usize
                    };
                    let banned = if bans.position == 0 { want.banned } else { &want.banned[..end] };
                    let (prompt_tokens, output_tokens) = (&prompts[index][..], &outputs[index][..]);
                    let allowed = want.allowed.map(|_| &MASKS[step][..]);
                    SampleRow { prompt_tokens, output_tokens, allowed, banned, position, ..want }
                })
                .collect();
            let mut copy = logits.clone();
            let view = ViewMut::from_f32(&mut copy, rows.len(), VOCABULARY);
            sample(&Device::cpu(1), &mut got, view, &wants);
            outputs.iter_mut().zip(&got).for_each(|(output, got)| output.push(got.token));
            steps.push(got);
        }
        steps
    }

    #[test]
    fn rows_of_a_table_get_the_tokens_of_the_host_while_it_is_steps_behind() {
        let emulator = quire_sim::load();
        let device = Device::cuda(0).expect("the emulator is a GPU");
        let Device::Cuda(cuda) = &device else { unreachable!() };
        let rows = [4, 0, 3, 5, 2, 1];
        let prompts: Vec<Vec<u32>> = (0..6).map(|i| vec![i, 2 * i, 40]).collect();
        // Few different values, and much the same in each step: penalties matter.
        let numbers = random_f32(3, 6 * VOCABULARY);
        let logits: Vec<Vec<f32>> = (0..4)
            .map(|step| numbers.iter().map(|x| (x * 9.0).round() + step as f32).collect())
            .collect();
        let expected = expected(&logits, &rows, &prompts);
        for asynchrony in [Asynchrony::Lazy, Asynchrony::Eager] {
            emulator.run_streams(Some(asynchrony));
            let mut table = SampleTable::new(cuda, LIMITS).expect("it fits");
            table.admit(rows.iter().zip(&prompts).map(|(&row, prompt)| {
                let (want, bans) = settings(row as usize);
                (row, SampleRow { prompt_tokens: prompt, ..want }, bans)
            }));
            let mut got: Vec<Vec<Sampled>> = Vec::new();
            let mut take = |table: &mut SampleTable| {
                let mut answers = Vec::new();
                table.take(&mut answers);
                got.push(answers);
            };
            let mut tensors = Vec::new();
            for (step, logits) in logits.iter().enumerate() {
                table.set_masks([(3, &MASKS[step][..])].into_iter());
                // Four rows at once, then two and one that is none.
                for (first, rows) in [(0, &rows[..4]), (4, &[rows[4], rows[5], u32::MAX])] {
                    let n = rows.len().min(6 - first);
                    let logits = &logits[first * VOCABULARY..(first + n) * VOCABULARY];
                    let mut padded = logits.to_vec();
                    padded.resize(rows.len() * VOCABULARY, f32::NAN);
                    let tensor = device.tensor(DType::F32, &padded, rows.len(), VOCABULARY);
                    tensors.push(tensor.expect("it fits"));
                    let view = tensors.last_mut().expect("pushed").view_mut();
                    let positions = vec![step as u32; rows.len()];
                    table.sample(cuda, &view, rows.into(), (&positions).into(), first);
                }
                table.fetch(6, true);
                if step > 0 {
                    take(&mut table);
                }
            }
            take(&mut table);
            assert_eq!(got.len(), expected.len());
            for (step, (got, expected)) in got.iter().zip(&expected).enumerate() {
                for (index, (got, expected)) in got.iter().zip(expected).enumerate() {
                    let same = (got.token, got.finite, got.rank, got.top.len());
                    let wanted =
                        (expected.token, expected.finite, expected.rank, expected.top.len());
                    assert_eq!(same, wanted, "step {step}, {asynchrony:?}: row {}", rows[index]);
                }
            }
            let last: Vec<u8> = table.sampled().read_bytes();
            let token = |row: usize| u32::from_le_bytes(last.as_chunks::<4>().0[row]);
            for (index, &row) in rows.iter().enumerate() {
                assert_eq!(token(row as usize), expected[3][index].token);
            }
        }
    }
}
