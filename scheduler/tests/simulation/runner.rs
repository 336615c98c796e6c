//! A device with a memory of pages and states: it stores in each slot what was computed there, and checks on each
//! step that all slots a row reads hold exactly the row's own past.

use quire_scheduler::{
    BlockId, CacheKind, SampledSequence, ScheduledSequence, Scheduler, SchedulerConfig,
    SchedulerOutput, SequenceId, StepOutput, TokenId, TokenList,
};

use crate::model::Content;

pub(crate) struct FakeRunner {
    config: SchedulerConfig,
    /// For each pool `[num_blocks][block_size]`; a state lies in the first slot of its block.
    memory: Vec<Vec<Slot>>,
    rows: Vec<Option<RowState>>,
    /// A step panicked: nothing works until `rebuild`.
    broken: bool,
    any_spoiled: bool,
    /// For each sequence of the step, when the state it read was spoiled.
    spoiled_states: Vec<Option<u64>>,
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
    /// With its cache group.
    content: Option<(usize, Content)>,
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
    /// For each cache group; entries before a window are missing.
    tables: Vec<Vec<Option<BlockId>>>,
    next_position: u32,
    /// Drafts that this step verifies, after `tokens`, and what follows from them.
    drafts: Vec<TokenId>,
    /// The last step with drafts: before its result is known no other step can follow.
    drafted_in: Option<u64>,
    /// Steps in a row that could have had it.
    num_pauses: u32,
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
            memory: config
                .pools
                .iter()
                .map(|pool| vec![EMPTY_SLOT; (pool.num_blocks * config.block_size) as usize])
                .collect(),
            spoiled_states: Vec::new(),
            rows: (0..config.max_num_seqs).map(|_| None).collect(),
            config: config.clone(),
            broken: false,
            any_spoiled: false,
        }
    }

    /// Everything that was computed is lost; the rows wait to be freed.
    pub(crate) fn rebuild(&mut self) {
        self.memory.iter_mut().for_each(|pool| pool.fill(EMPTY_SLOT));
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
        let mut drafts = output.draft_tokens.iter().copied();
        for sequence in &output.sequences {
            self.apply_sequence(output, sequence, scheduler);
            let of_sequence = drafts.by_ref().take(sequence.num_drafts as usize);
            self.apply_drafts(of_sequence, sequence, output.step.0);
        }
        assert!(drafts.next().is_none(), "drafts of nobody");
        if faults.panic {
            self.broken = true;
            self.memory.iter_mut().for_each(|pool| pool.fill(EMPTY_SLOT));
            return Err(Panicked);
        }
        self.assert_states_apart(output);
        self.spoiled_states.clear();
        for sequence in &output.sequences {
            self.write(sequence);
            let spoiled = self.move_states(output, sequence);
            self.spoiled_states.push(spoiled);
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

    /// Every row that lacks one token is in the step, whatever prompts there are; but a tenant that is ahead may have nothing in
    /// some steps in a row.
    pub(crate) fn assert_decodes_go_first(
        &mut self,
        output: &SchedulerOutput,
        num_in_flight: u64,
        max_num_tokens: impl Fn(SequenceId) -> usize,
        tenant: impl Fn(SequenceId) -> u32,
    ) {
        const MOST_PAUSES: u32 = 8;
        for row in self.rows.iter_mut().flatten() {
            let scheduled = output.sequences.iter().any(|sequence| sequence.id == row.id);
            let lacks_one = row.next_position as usize + 1 == row.tokens.len();
            let at_limit = row.tokens.len() >= max_num_tokens(row.id);
            let awaits = row.drafted_in.is_some_and(|step| step + num_in_flight >= output.step.0);
            let may_rest = at_limit || awaits || !lacks_one;
            let pauses = !scheduled && !may_rest;
            row.num_pauses = if pauses { row.num_pauses + 1 } else { 0 };
            let is_of_own = |other: SequenceId| tenant(other) == tenant(row.id);
            let has_none = !pauses || !output.sequences.iter().any(|other| is_of_own(other.id));
            let is_right = has_none && row.num_pauses <= MOST_PAUSES;
            assert!(is_right, "sequence {} is not decoded", row.id.0);
        }
    }

    fn apply_rows(&mut self, output: &SchedulerOutput, scheduler: &Scheduler, faults: &Faults) {
        for row in &output.freed_rows {
            assert!(self.rows[row.0 as usize].take().is_some(), "row {} was free", row.0);
        }
        for admitted in &output.admitted {
            let mut with_salts = output.sequences.iter().zip(&faults.cache_salts);
            let own = with_salts.find(|(sequence, _)| sequence.id == admitted.id);
            let (_, &cache_salt) = own.expect("an admitted sequence is in the step");
            let mut row = RowState {
                id: admitted.id,
                tokens: Vec::new(),
                contents: Vec::new(),
                root: Content::root(cache_salt),
                tables: vec![Vec::new(); self.config.cache_groups.len()],
                next_position: admitted.num_cached_tokens,
                drafts: Vec::new(),
                drafted_in: None,
                num_pauses: 0,
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
        for new in output.new_blocks_of(sequence) {
            let (table, index) = (&mut row.tables[new.group as usize], new.index as usize);
            assert!(index >= table.len(), "an entry is sent twice");
            table.resize(index, None);
            table.push(Some(new.block));
        }
        assert_eq!(row.next_position, sequence.start, "a position is skipped or repeated");
        row.next_position += sequence.num_tokens;
        let end = row.next_position - sequence.num_drafts;
        assert_eq!(sequence.samples, end as usize == row.tokens.len());
        let threshold = self.config.long_prefill_token_threshold;
        assert!(threshold == 0 || sequence.num_tokens <= threshold, "over the threshold");
        assert!(sequence.samples || self.config.enable_chunked_prefill, "a prompt is cut");

        let known = scheduler.tokens(sequence.id).expect("a scheduled sequence is unfinished");
        assert_eq!(known, &row.tokens[..known.len()], "the device has other tokens");
        assert_eq!(sequence.num_unknown_tokens, end.saturating_sub(known.len() as u32));
        let num_prompt_tokens = scheduler.num_prompt_tokens(sequence.id).expect("unfinished");
        let num_output_tokens = row.tokens.len() as u32 - num_prompt_tokens;
        assert_eq!(sequence.num_output_tokens, num_output_tokens);
    }

    /// Drafts are computed like tokens; `sample` takes the wrong ones back.
    fn apply_drafts(
        &mut self,
        drafts: impl Iterator<Item = TokenId>,
        sequence: &ScheduledSequence,
        step: u64,
    ) {
        let row = self.rows[sequence.row.0 as usize].as_mut().expect("the row is in use");
        row.drafts = drafts.collect();
        if !row.drafts.is_empty() {
            row.drafted_in = Some(step);
        }
        assert!(row.drafts.is_empty() || sequence.samples, "drafts within a prompt");
        for draft in row.drafts.clone() {
            row.push(draft);
        }
    }

    fn row(&self, sequence: &ScheduledSequence) -> &RowState {
        self.rows[sequence.row.0 as usize].as_ref().expect("the row is in use")
    }

    /// Pool and slot of a position in a group of pages.
    fn address(&self, row: &RowState, group: usize, position: u32) -> (usize, usize) {
        let block_size = self.config.block_size;
        let block = row.tables[group][(position / block_size) as usize].expect("a dropped block");
        let slot = block.0 * block_size + position % block_size;
        (self.config.cache_groups[group].pool as usize, slot as usize)
    }

    /// Pool and slot of a state.
    fn state_address(&self, group: usize, block: BlockId) -> (usize, usize) {
        let pool = self.config.cache_groups[group].pool as usize;
        (pool, (block.0 * self.config.block_size) as usize)
    }

    fn groups_of_pages(&self) -> impl Iterator<Item = usize> + use<> {
        let kinds: Vec<CacheKind> =
            self.config.cache_groups.iter().map(|group| group.kind).collect();
        (0..kinds.len()).filter(move |&group| kinds[group] != CacheKind::RecurrentState)
    }

    /// Every slot that the queries of a step read.
    fn reads(&self, sequence: &ScheduledSequence) -> Vec<(usize, u32, (usize, usize))> {
        let row = self.row(sequence);
        let mut reads = Vec::new();
        for group in self.groups_of_pages() {
            let first = match self.config.cache_groups[group].kind {
                CacheKind::SlidingWindow { window } => (sequence.start + 1).saturating_sub(window),
                CacheKind::Chunk { chunk } => sequence.start - sequence.start % chunk,
                _ => 0,
            };
            let positions = first..sequence.start + sequence.num_tokens;
            reads.extend(
                positions.map(|position| (group, position, self.address(row, group, position))),
            );
        }
        reads
    }

    fn write(&mut self, sequence: &ScheduledSequence) {
        for group in self.groups_of_pages() {
            for position in sequence.start..sequence.start + sequence.num_tokens {
                let row = self.row(sequence);
                let (pool, slot) = self.address(row, group, position);
                let content = Some((group, row.contents[position as usize]));
                self.memory[pool][slot] = Slot { content, spoiled_in: None };
            }
        }
    }

    /// Rows run in any order, so no row may write a state that another one reads or writes.
    fn assert_states_apart(&self, output: &SchedulerOutput) {
        let segments = |sequence| output.state_segments_of(sequence).iter();
        for writer in &output.sequences {
            for written in segments(writer) {
                let written_at = self.state_address(written.group as usize, written.to);
                for other in output.sequences.iter().filter(|other| other.id != writer.id) {
                    for segment in segments(other) {
                        let touched = segment.from.into_iter().chain([segment.to]);
                        let mut touched =
                            touched.map(|block| self.state_address(segment.group as usize, block));
                        assert!(touched.all(|at| at != written_at), "two rows share a state");
                    }
                }
            }
        }
    }

    /// Follows the segments of a row; returns when the state that it began with was spoiled.
    fn move_states(
        &mut self,
        output: &SchedulerOutput,
        sequence: &ScheduledSequence,
    ) -> Option<u64> {
        let mut spoiled_in = None;
        let groups = &self.config.cache_groups;
        let is_state = |group: &usize| groups[*group].kind == CacheKind::RecurrentState;
        let groups: Vec<usize> = (0..groups.len()).filter(is_state).collect();
        let mut segments = output.state_segments_of(sequence).iter();
        for group in groups {
            let mut position = sequence.start;
            while position < sequence.start + sequence.num_tokens {
                let segment = segments.next().expect("segments for each token");
                assert_eq!(segment.group as usize, group);
                assert!(segment.num_tokens > 0, "an empty segment");
                let before = segment.from.map(|block| {
                    let (pool, slot) = self.state_address(group, block);
                    self.memory[pool][slot]
                });
                let row = self.row(sequence);
                let expected =
                    position.checked_sub(1).map(|last| (group, row.contents[last as usize]));
                assert_eq!(before.and_then(|slot| slot.content), expected, "a foreign state");
                spoiled_in = spoiled_in.or(before.and_then(|slot| slot.spoiled_in));
                position += segment.num_tokens;
                let content = Some((group, row.contents[position as usize - 1]));
                let (pool, slot) = self.state_address(group, segment.to);
                self.memory[pool][slot] = Slot { content, spoiled_in: None };
            }
            assert_eq!(position, sequence.start + sequence.num_tokens, "a segment is too long");
        }
        assert!(segments.next().is_none(), "more segments than tokens");
        spoiled_in
    }

    fn verify_context(&self, sequence: &ScheduledSequence) {
        let row = self.row(sequence);
        for (group, position, (pool, slot)) in self.reads(sequence) {
            assert_eq!(
                self.memory[pool][slot].content,
                Some((group, row.contents[position as usize])),
                "sequence {} reads foreign content at position {position} of group {group}",
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
            let pages = self.reads(sequence).into_iter();
            let written = pages.filter(|&(_, position, _)| position >= sequence.start);
            let states = output.state_segments_of(sequence).iter();
            let states =
                states.map(|segment| self.state_address(segment.group as usize, segment.to));
            let addresses: Vec<_> = written.map(|(.., address)| address).chain(states).collect();
            for (pool, slot) in addresses {
                self.memory[pool][slot].spoiled_in = Some(output.step.0);
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
            let reads = self.reads(sequence);
            let mut pages = reads.iter().map(|&(.., (pool, slot))| self.memory[pool][slot]);
            let spoiled_in =
                self.spoiled_states[index].or_else(|| pages.find_map(|slot| slot.spoiled_in));
            if let Some(step) = spoiled_in {
                let admitted = output.admitted.iter().any(|other| other.id == sequence.id);
                let unknown = step + num_in_flight >= output.step.0;
                assert!(unknown || !admitted, "a failed block is still cached");
                return Some(index);
            }
        }
        None
    }

    /// The drafts that are right, and one more token.
    fn sample(&mut self, sequence: &ScheduledSequence) -> TokenList {
        let row = self.rows[sequence.row.0 as usize].as_mut().expect("the row is in use");
        if !sequence.samples {
            return TokenList::EMPTY;
        }
        let drafts = std::mem::take(&mut row.drafts);
        let num_known = row.tokens.len() - drafts.len();
        let mut sampled = TokenList::EMPTY;
        for index in 0..=drafts.len() {
            let last = row.contents[num_known + index - 1];
            let token = last.sample(sequence.num_output_tokens + index as u32);
            sampled.push(token);
            if drafts.get(index) != Some(&token) {
                break;
            }
        }
        row.tokens.truncate(num_known);
        row.contents.truncate(num_known);
        sampled.iter().for_each(|&token| row.push(token));
        row.next_position -= (1 + drafts.len() - sampled.len()) as u32;
        sampled
    }
}
