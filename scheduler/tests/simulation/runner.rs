//! A device with a KV memory: it stores in each slot what was computed there, and checks on each
//! step that all slots a row reads hold exactly the row's own past.

use quire_scheduler::{
    BlockId, SampledSequence, ScheduledSequence, Scheduler, SchedulerConfig, SchedulerOutput,
    SequenceId, StepOutput, TokenId, TokenList,
};

use crate::model::Content;

pub(crate) struct FakeRunner {
    config: SchedulerConfig,
    memory: Vec<Slot>,
    rows: Vec<Option<RowState>>,
    /// A step panicked: nothing works until `rebuild`.
    broken: bool,
    any_spoiled: bool,
}

/// A step that did not return.
#[derive(Debug)]
pub(crate) struct Panicked;

/// What goes wrong in a step.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) panic: bool,
    /// Index of a sequence whose keys and values become non-finite.
    pub(crate) spoiled: Option<usize>,
    /// For each sequence of the step its cache salt.
    pub(crate) cache_salts: Vec<u64>,
}

#[derive(Copy, Clone)]
struct Slot {
    content: Option<Content>,
    /// The step that wrote something non-finite here.
    spoiled_in: Option<u64>,
}

const EMPTY_SLOT: Slot = Slot { content: None, spoiled_in: None };

struct RowState {
    id: SequenceId,
    tokens: Vec<TokenId>,
    /// `contents[i]` follows from `tokens[..=i]`.
    contents: Vec<Content>,
    root: Content,
    table: Vec<BlockId>,
    next_position: u32,
}

impl RowState {
    fn push(&mut self, token: TokenId) {
        let before = self.contents.last().copied().unwrap_or(self.root);
        self.contents.push(before.then(token));
        self.tokens.push(token);
    }
}

impl FakeRunner {
    pub(crate) fn new(config: &SchedulerConfig) -> Self {
        Self {
            memory: vec![EMPTY_SLOT; (config.num_blocks * config.block_size) as usize],
            rows: (0..config.max_num_seqs).map(|_| None).collect(),
            config: config.clone(),
            broken: false,
            any_spoiled: false,
        }
    }

    /// Everything that was computed is lost; the rows wait to be freed.
    pub(crate) fn rebuild(&mut self) {
        self.memory.fill(EMPTY_SLOT);
        self.broken = false;
        self.any_spoiled = false;
    }

    pub(crate) fn launch(
        &mut self,
        output: &SchedulerOutput,
        scheduler: &Scheduler,
        faults: &Faults,
        num_in_flight: u64,
    ) -> Result<StepOutput, Panicked> {
        self.apply_rows(output, scheduler, faults);
        if self.broken {
            return Err(Panicked);
        }
        assert!(output.num_tokens() <= self.config.max_num_batched_tokens, "over budget");
        for sequence in &output.sequences {
            self.apply_sequence(output, sequence, scheduler);
        }
        if faults.panic {
            self.broken = true;
            self.memory.fill(EMPTY_SLOT);
            return Err(Panicked);
        }
        for sequence in &output.sequences {
            self.write(sequence);
        }
        for sequence in &output.sequences {
            self.verify_context(sequence);
        }
        let failed = self.spread_spoiled(output, faults, num_in_flight);
        let sampled = output
            .sequences
            .iter()
            .zip(failed)
            .map(|(sequence, failed)| SampledSequence { tokens: self.sample(sequence), failed });
        Ok(StepOutput { step: output.step, sequences: sampled.collect() })
    }

    /// Every row that lacks one token is in the step, whatever prompts there are.
    pub(crate) fn assert_decodes_go_first(
        &self,
        output: &SchedulerOutput,
        max_num_tokens: impl Fn(SequenceId) -> usize,
    ) {
        for row in self.rows.iter().flatten() {
            let scheduled = output.sequences.iter().any(|sequence| sequence.id == row.id);
            let lacks_one = row.next_position as usize + 1 == row.tokens.len();
            let at_limit = row.tokens.len() >= max_num_tokens(row.id);
            assert!(scheduled || !lacks_one || at_limit, "sequence {} is not decoded", row.id.0);
        }
    }

    fn apply_rows(&mut self, output: &SchedulerOutput, scheduler: &Scheduler, faults: &Faults) {
        for row in &output.freed_rows {
            assert!(self.rows[row.0 as usize].take().is_some(), "row {} was free", row.0);
        }
        let num_before = output.sequences.len() - output.admitted.len();
        for (admitted, &cache_salt) in output.admitted.iter().zip(&faults.cache_salts[num_before..])
        {
            let mut row = RowState {
                id: admitted.id,
                tokens: Vec::new(),
                contents: Vec::new(),
                root: Content::root(cache_salt),
                table: Vec::new(),
                next_position: admitted.num_cached_tokens,
            };
            let tokens = scheduler.tokens(admitted.id).expect("an admitted sequence is unfinished");
            for &token in tokens {
                row.push(token);
            }
            let place = &mut self.rows[admitted.row.0 as usize];
            assert!(place.is_none(), "row {} was taken", admitted.row.0);
            *place = Some(row);
        }
    }

    fn apply_sequence(
        &mut self,
        output: &SchedulerOutput,
        sequence: &ScheduledSequence,
        scheduler: &Scheduler,
    ) {
        let same = output.sequences.iter().filter(|other| other.id == sequence.id).count();
        assert_eq!(same, 1, "a sequence is in a step twice");
        let row = self.rows[sequence.row.0 as usize].as_mut().expect("the row is in use");
        assert_eq!(row.id, sequence.id);
        row.table.extend_from_slice(output.new_blocks_of(sequence));
        assert_eq!(row.next_position, sequence.start, "a position is skipped or repeated");
        row.next_position += sequence.num_tokens;
        let end = row.next_position;
        assert!(end.div_ceil(self.config.block_size) as usize <= row.table.len(), "no block");
        assert_eq!(sequence.samples, end as usize == row.tokens.len());
        let threshold = self.config.long_prefill_token_threshold;
        assert!(threshold == 0 || sequence.num_tokens <= threshold, "over the threshold");

        let known = scheduler.tokens(sequence.id).expect("a scheduled sequence is unfinished");
        assert_eq!(known, &row.tokens[..known.len()], "the device has other tokens");
        assert_eq!(sequence.num_unknown_tokens, end.saturating_sub(known.len() as u32));
        let num_prompt_tokens = scheduler.num_prompt_tokens(sequence.id).expect("unfinished");
        let num_output_tokens = row.tokens.len() as u32 - num_prompt_tokens;
        assert_eq!(sequence.num_output_tokens, num_output_tokens);
    }

    fn row(&self, sequence: &ScheduledSequence) -> &RowState {
        self.rows[sequence.row.0 as usize].as_ref().expect("the row is in use")
    }

    fn address(&self, table: &[BlockId], position: u32) -> usize {
        let BlockId(block) = table[(position / self.config.block_size) as usize];
        (block * self.config.block_size + position % self.config.block_size) as usize
    }

    fn write(&mut self, sequence: &ScheduledSequence) {
        for position in sequence.start..sequence.start + sequence.num_tokens {
            let row = self.row(sequence);
            let address = self.address(&row.table, position);
            let content = Some(row.contents[position as usize]);
            self.memory[address] = Slot { content, spoiled_in: None };
        }
    }

    fn verify_context(&self, sequence: &ScheduledSequence) {
        let row = self.row(sequence);
        for position in 0..sequence.start + sequence.num_tokens {
            let slot = self.memory[self.address(&row.table, position)];
            assert_eq!(
                slot.content,
                Some(row.contents[position as usize]),
                "sequence {} reads foreign content at position {position}",
                sequence.id.0
            );
        }
    }

    /// Who reads something spoiled computes something spoiled; returns who has.
    fn spread_spoiled(
        &mut self,
        output: &SchedulerOutput,
        faults: &Faults,
        num_in_flight: u64,
    ) -> Vec<bool> {
        let mut failed = vec![false; output.sequences.len()];
        self.any_spoiled |= faults.spoiled.is_some();
        if !self.any_spoiled {
            return failed;
        }
        let mut next = faults.spoiled;
        while let Some(index) = next {
            failed[index] = true;
            let sequence = &output.sequences[index];
            for position in sequence.start..sequence.start + sequence.num_tokens {
                let address = self.address(&self.row(sequence).table, position);
                self.memory[address].spoiled_in = Some(output.step.0);
            }
            next = self.next_reader_of_spoiled(output, &failed, num_in_flight);
        }
        if let Some(index) = self.next_reader_of_spoiled(output, &failed, num_in_flight) {
            let with_reader = Faults { spoiled: Some(index), ..Faults::default() };
            let more = self.spread_spoiled(output, &with_reader, num_in_flight);
            failed.iter_mut().zip(more).for_each(|(failed, more)| *failed |= more);
        }
        failed
    }

    /// A sequence can find in the cache only what a step spoiled whose result was not known yet.
    fn next_reader_of_spoiled(
        &self,
        output: &SchedulerOutput,
        failed: &[bool],
        num_in_flight: u64,
    ) -> Option<usize> {
        for (index, sequence) in output.sequences.iter().enumerate().filter(|(i, _)| !failed[*i]) {
            let table = &self.row(sequence).table;
            let spoiled_in = (0..sequence.start + sequence.num_tokens)
                .find_map(|position| self.memory[self.address(table, position)].spoiled_in);
            if let Some(step) = spoiled_in {
                let admitted = output.admitted.iter().any(|other| other.id == sequence.id);
                let unknown = step + num_in_flight >= output.step.0;
                assert!(unknown || !admitted, "a failed block is still cached");
                return Some(index);
            }
        }
        None
    }

    fn sample(&mut self, sequence: &ScheduledSequence) -> TokenList {
        let row = self.rows[sequence.row.0 as usize].as_mut().expect("the row is in use");
        if !sequence.samples {
            return TokenList::EMPTY;
        }
        let last = row.contents.last().expect("a prompt has tokens");
        let token = last.sample(sequence.num_output_tokens);
        row.push(token);
        TokenList::one(token)
    }
}
