//! The scheduler: takes sequences, makes one step after the other, answers questions.

use std::collections::VecDeque;
use std::ops::Range;

use crate::admit::AdmissionRatio;
use crate::block::BlockTable;
use crate::block_pool::BlockPool;
use crate::cache_events::CacheWatch;
use crate::cached_prefix::CachedPrefix;
use crate::config::SchedulerConfig;
use crate::draft_tree::DraftTree;
use crate::groups::Groups;
use crate::output::{
    DraftStats, MAX_TOKENS_PER_STEP, NewBlock, Row, ScheduledSequence, SchedulerOutput,
    SchedulerStats, StepId,
};
use crate::queue::QueueKey;
use crate::request::{NewSequence, Rejected, SequenceId, TokenId};
use crate::sequence::{Sequence, Sequences, Slot};
use crate::state::StateTable;
use crate::tenants::{MAX_TENANTS, Tenants};

/// One step runs while the next is scheduled.
pub const MAX_STEPS_IN_FLIGHT: usize = 2;

pub struct Scheduler {
    pub(crate) config: SchedulerConfig,
    pub(crate) sequences: Sequences,
    /// With the sequences that wait.
    pub(crate) tenants: Tenants,
    /// Ordered by the ranks of their tenants when this step was begun, then by key.
    pub(crate) running: Vec<Slot>,
    pub(crate) groups: Groups,
    pub(crate) pools: Vec<BlockPool>,
    pub(crate) free_rows: Vec<Row>,
    /// Released since the last step.
    pub(crate) freed_rows: Vec<Row>,
    pub(crate) in_flight: VecDeque<StepInFlight>,
    pub(crate) next_step: StepId,
    pub(crate) num_suspects: u32,
    pub(crate) admission_ratio: AdmissionRatio,
    /// What the last lookup in the prefix cache found.
    pub(crate) cached_prefix: CachedPrefix,
    /// Buffers of `admit_waiting`, a number a pool.
    pub(crate) reserved: Vec<u64>,
    pub(crate) needs: Vec<u64>,
    /// Buffer of `schedule_chunks`.
    prompts: Vec<Slot>,
    /// Buffers of finished steps.
    pub(crate) spare_entries: Vec<Vec<EntryInFlight>>,
    /// Tokens that one sequence can have computed.
    kv_capacity: u64,
    num_arrivals: u64,
    /// Steps in a row that had nothing of tenants that are ahead.
    pub(crate) num_pauses: u32,
    pub(crate) num_preemptions: u64,
    pub(crate) num_preemptions_for_tenants: u64,
    pub(crate) prefix_cache_queries: u64,
    pub(crate) prefix_cache_hits: u64,
    pub(crate) draft_stats: DraftStats,
    /// `None` while nobody wants to know what is cached.
    pub(crate) cache_watch: Option<CacheWatch>,
}

/// A step that was scheduled and whose result is not known.
pub(crate) struct StepInFlight {
    pub(crate) step: StepId,
    pub(crate) entries: Vec<EntryInFlight>,
}

#[derive(Copy, Clone)]
pub(crate) struct EntryInFlight {
    pub(crate) slot: Slot,
    /// The slot's epoch when the step was scheduled; with another one the result is stale.
    pub(crate) epoch: u32,
    pub(crate) num_tokens: u32,
    pub(crate) num_drafts: u32,
    pub(crate) samples: bool,
}

/// The step being made.
pub(crate) struct Plan {
    pub(crate) token_budget: u32,
    /// Taken of sequences that lack more than one.
    pub(crate) num_prompt_tokens: u32,
    /// Nothing of tenants that are ahead is in it.
    pub(crate) pauses_ahead: bool,
    pub(crate) output: SchedulerOutput,
    pub(crate) entries: Vec<EntryInFlight>,
}

impl Scheduler {
    /// The error names the field that is wrong.
    pub fn new(config: SchedulerConfig) -> Result<Self, String> {
        config.validate()?;
        Ok(Self {
            sequences: Sequences::default(),
            tenants: Tenants::new(config.max_num_batched_tokens),
            running: Vec::with_capacity(config.max_num_seqs as usize),
            groups: Groups::new(&config),
            pools: config
                .pools
                .iter()
                .map(|pool| BlockPool::new(pool.num_blocks, pool.num_resident_blocks))
                .collect(),
            free_rows: (0..config.max_num_seqs).rev().map(Row).collect(),
            freed_rows: Vec::new(),
            in_flight: VecDeque::with_capacity(MAX_STEPS_IN_FLIGHT),
            next_step: StepId(0),
            num_suspects: 0,
            admission_ratio: AdmissionRatio::default(),
            cached_prefix: CachedPrefix::default(),
            reserved: Vec::new(),
            needs: Vec::new(),
            prompts: Vec::new(),
            kv_capacity: config.kv_capacity(),
            spare_entries: Vec::new(),
            num_arrivals: 0,
            num_pauses: 0,
            num_preemptions: 0,
            num_preemptions_for_tenants: 0,
            prefix_cache_queries: 0,
            prefix_cache_hits: 0,
            draft_stats: DraftStats::default(),
            cache_watch: None,
            config,
        })
    }

    pub fn add(&mut self, new: NewSequence) -> Result<(), Rejected> {
        let max_num_tokens = self.admissible(&new)?;
        let key = QueueKey::new(self.config.policy, new.priority, self.num_arrivals);
        self.num_arrivals += 1;
        let slot = self.sequences.insert(Sequence {
            id: new.id,
            key,
            tenant: new.tenant.index,
            row: None,
            suspect: false,
            num_prompt_tokens: new.prompt.len() as u32,
            tokens: new.prompt,
            max_num_tokens,
            num_computed_tokens: 0,
            num_scheduled_tokens: 0,
            num_pending_tokens: 0,
            drafts: DraftTree::EMPTY,
            num_drafts_in_flight: 0,
            most_scheduled_tokens: 0,
            num_preemptions: 0,
            block_tables: self.groups.paged.iter().map(|_| BlockTable::default()).collect(),
            states: self.groups.recurrent.iter().map(|_| StateTable::default()).collect(),
            block_hashes: Vec::new(),
            num_published_blocks: 0,
            stop: new.stop,
            cache_salt: new.cache_salt,
            skip_prefix_cache: new.skip_prefix_cache,
        });
        self.tenants.arrive(new.tenant, key, slot);
        Ok(())
    }

    /// The next step, to be launched now; `None` when nothing can run before a result is known or a
    /// sequence is added.
    ///
    /// With no step in flight it is `Some` exactly when a sequence is unfinished.
    pub fn schedule(&mut self) -> Option<SchedulerOutput> {
        if self.in_flight.len() == MAX_STEPS_IN_FLIGHT {
            return None;
        }
        self.drop_unneeded();
        self.tenants.begin_step();
        self.order_running();
        let mut plan = self.empty_plan();
        if self.num_suspects > 0 {
            // Alone also in time: when the step fails, the culprit is known.
            if self.in_flight.is_empty() {
                self.schedule_suspect(&mut plan);
            }
        } else {
            self.make_room();
            plan.pauses_ahead = self.pauses_ahead();
            self.fill(&mut plan);
            if plan.entries.is_empty() && std::mem::take(&mut plan.pauses_ahead) {
                self.fill(&mut plan);
            }
            self.num_pauses = if plan.pauses_ahead { self.num_pauses + 1 } else { 0 };
        }
        if plan.entries.is_empty() {
            self.spare_entries.push(plan.entries);
            return None;
        }
        if !self.groups.recurrent.is_empty() {
            plan.entries.iter().for_each(|entry| self.publish_states(entry.slot));
        }
        plan.output.freed_rows.append(&mut self.freed_rows);
        self.next_step.0 += 1;
        self.in_flight.push_back(StepInFlight { step: plan.output.step, entries: plan.entries });
        Some(plan.output)
    }

    /// Guesses of the tokens that follow the known ones of a sequence: its next step verifies them, as far as budget and
    /// free blocks go. At most [`MAX_TOKENS_PER_STEP`] - 1; more are ignored, and so are those of a sequence that waits.
    pub fn propose(&mut self, id: SequenceId, drafts: &[TokenId]) {
        let chain = drafts.iter().copied().take(MAX_TOKENS_PER_STEP - 1).collect();
        self.propose_tree(id, chain);
    }

    /// The same of guesses that may be several at one place.
    pub fn propose_tree(&mut self, id: SequenceId, drafts: DraftTree) {
        if let Some(slot) = self.sequences.find(id)
            && self.sequences[slot].row.is_some()
        {
            self.sequences[slot].drafts = drafts;
        }
    }

    pub fn max_num_seqs(&self) -> u32 {
        self.config.max_num_seqs
    }

    /// The running sequences that the next step can verify drafts of, each with the most that it can take.
    pub fn draftable(&self) -> impl Iterator<Item = (SequenceId, u32)> + '_ {
        let sequences = self.running.iter().map(|&slot| &self.sequences[slot]);
        let draftable = sequences.filter(|sequence| {
            sequence.num_lacking_tokens() == 1
                && sequence.num_pending_tokens == 0
                && !sequence.suspect
        });
        draftable.map(|sequence| (sequence.id, sequence.num_possible_drafts()))
    }

    /// Prompt and accepted output; `None` once the sequence is finished or cancelled.
    pub fn tokens(&self, id: SequenceId) -> Option<&[TokenId]> {
        self.sequences.find(id).map(|slot| self.sequences[slot].tokens.as_slice())
    }

    pub fn num_prompt_tokens(&self, id: SequenceId) -> Option<u32> {
        self.sequences.find(id).map(|slot| self.sequences[slot].num_prompt_tokens)
    }

    pub fn has_unfinished(&self) -> bool {
        self.sequences.len() > 0
    }

    /// In the order of service.
    pub fn waiting_ids(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.tenants.iter().map(|slot| self.sequences[slot].id)
    }

    /// In the order of service.
    pub fn running_ids(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.running.iter().map(|&slot| self.sequences[slot].id)
    }

    pub fn stats(&self) -> SchedulerStats {
        let sum = |count: fn(&BlockPool) -> u32| self.pools.iter().map(count).sum();
        SchedulerStats {
            num_running: self.running.len() as u32,
            num_waiting: self.tenants.num_waiting(),
            num_blocks: sum(BlockPool::num_blocks),
            num_used_blocks: sum(|pool| pool.num_blocks() - pool.num_free()),
            num_cached_free_blocks: sum(BlockPool::num_cached_free),
            num_touched_blocks: sum(BlockPool::num_touched),
            prefix_cache_queries: self.prefix_cache_queries,
            prefix_cache_hits: self.prefix_cache_hits,
            num_preemptions: self.num_preemptions,
            num_preemptions_for_tenants: self.num_preemptions_for_tenants,
            drafts: self.draft_stats,
        }
    }

    /// The most tokens that the sequence can grow to.
    fn admissible(&self, new: &NewSequence) -> Result<u32, Rejected> {
        let num_tokens = new.prompt.len();
        let limit = self.config.max_model_len - 1;
        let kv_capacity = self.kv_capacity;
        if num_tokens == 0 {
            return Err(Rejected::EmptyPrompt);
        }
        if new.stop.max_tokens == 0 {
            return Err(Rejected::ZeroMaxTokens);
        }
        if num_tokens > limit as usize {
            return Err(Rejected::PromptTooLong { num_tokens, limit });
        }
        if num_tokens as u64 > kv_capacity {
            return Err(Rejected::ExceedsKvCache { num_tokens, limit: kv_capacity });
        }
        if new.tenant.index >= MAX_TENANTS {
            return Err(Rejected::TenantOutOfRange { index: new.tenant.index });
        }
        if self.sequences.find(new.id).is_some() {
            return Err(Rejected::DuplicateId { id: new.id });
        }
        if self.tenants.num_waiting() >= self.config.max_num_queued_seqs {
            return Err(Rejected::QueueFull { limit: self.config.max_num_queued_seqs });
        }
        // The last token of a sequence is sampled but never computed: it needs no place in the
        // pool.
        let wanted = num_tokens as u64 + u64::from(new.stop.max_tokens);
        let most = wanted.min(kv_capacity + 1).min(u64::from(self.config.max_model_len));
        Ok(most as u32)
    }

    /// Everything that a step has, unless it is for a suspect alone.
    fn fill(&mut self, plan: &mut Plan) {
        let num_preemptions = self.num_preemptions;
        self.schedule_decodes(plan);
        let may_admit = self.num_preemptions == num_preemptions;
        self.schedule_chunks(plan, may_admit);
        if may_admit {
            self.admit_waiting(plan, None);
            self.admission_ratio.decay();
        }
    }

    /// Sequences that lack one token go before prompts take the budget, which has a token for each
    /// row.
    fn schedule_decodes(&mut self, plan: &mut Plan) {
        let mut index = 0;
        while let Some(&slot) = self.running.get(index) {
            index += 1;
            let sequence = &self.sequences[slot];
            let is_paused = plan.pauses_ahead && self.tenants.is_ahead(sequence.tenant);
            if sequence.num_lacking_tokens() != 1 || is_paused {
                continue;
            }
            // Each other one still gets a token.
            let num_others = (self.running.len() - plan.entries.len() - 1) as u32;
            let num_drafts = self.draft(slot, plan.token_budget.saturating_sub(num_others));
            if num_drafts > 0 {
                self.schedule_sequence(plan, slot, num_drafts);
                continue;
            }
            // The last is preempted: never one that this step has already.
            while !self.entitle(slot, self.sequences[slot].num_scheduled_tokens + 1) {
                let victim = *self.running.last().expect("this sequence is running");
                self.preempt(victim);
                self.admission_ratio.raise();
                if victim == slot {
                    return;
                }
            }
            self.schedule_sequence(plan, slot, 0);
        }
    }

    /// How many drafts a sequence that lacks one token verifies in this step; their blocks are promised then. Nobody is
    /// preempted for a guess.
    fn draft(&mut self, slot: Slot, token_budget: u32) -> u32 {
        let sequence = &self.sequences[slot];
        if sequence.drafts.is_empty() || sequence.num_pending_tokens > 0 || sequence.suspect {
            return 0;
        }
        let limits = [
            sequence.drafts.len() as u32,
            token_budget.saturating_sub(1),
            self.config.max_num_tokens_at_once() - 1,
            sequence.num_possible_drafts(),
            self.num_available_states(),
        ];
        let (most, end) = (limits.into_iter().min().unwrap_or(0), sequence.num_tokens());
        (1..=most).rev().find(|num_drafts| self.entitle(slot, end + num_drafts)).unwrap_or(0)
    }

    /// Prompts, which are promised all their blocks since their admission. Each waits for those that are admitted before it.
    fn schedule_chunks(&mut self, plan: &mut Plan, may_admit: bool) {
        let mut prompts = std::mem::take(&mut self.prompts);
        prompts.clear();
        let lacks_more = |slot: &Slot| self.sequences[*slot].num_lacking_tokens() > 1;
        prompts.extend(self.running.iter().copied().filter(lacks_more));
        for &slot in &prompts {
            if may_admit && self.tenants.is_contended() {
                self.admit_waiting(plan, Some(self.sequences[slot].tenant));
            }
            if plan.token_budget == 0 {
                break;
            }
            if self.prompt_budget(plan, self.sequences[slot].tenant) > 0 {
                self.schedule_sequence(plan, slot, 0);
            }
        }
        self.prompts = prompts;
    }

    /// Gives a running sequence what it lacks, as far as budget and threshold go; the blocks for that
    /// are promised.
    pub(crate) fn schedule_sequence(&mut self, plan: &mut Plan, slot: Slot, num_drafts: u32) {
        let most = self.config.max_num_tokens_at_once();
        let sequence = &self.sequences[slot];
        let (start, num_lacking) = (sequence.num_scheduled_tokens, sequence.num_lacking_tokens());
        let budget = match num_lacking {
            1 => plan.token_budget,
            _ => self.prompt_budget(plan, sequence.tenant),
        };
        let num_known = num_lacking.min(budget).min(most);
        plan.num_prompt_tokens += if num_lacking > 1 { num_known } else { 0 };
        let sequence = &mut self.sequences[slot];
        let (certain, num_tokens) = (start + num_known, num_known + num_drafts);
        assert!(num_tokens > 0, "a sequence is scheduled with a budget and something to compute");
        let num_output_tokens = sequence.num_total_tokens() - sequence.num_prompt_tokens;
        let samples = certain == sequence.num_total_tokens();
        let num_unknown_tokens = certain.saturating_sub(sequence.num_tokens());
        sequence.num_scheduled_tokens += num_tokens;
        sequence.num_pending_tokens += u32::from(samples) + num_drafts;
        sequence.num_drafts_in_flight = num_drafts;
        sequence.most_scheduled_tokens =
            sequence.most_scheduled_tokens.max(sequence.num_scheduled_tokens);
        let drafts = std::mem::take(&mut sequence.drafts);
        plan.output.draft_tokens.extend_from_slice(&drafts[..num_drafts as usize]);
        plan.output.draft_parents.extend_from_slice(&drafts.parents()[..num_drafts as usize]);
        plan.token_budget -= num_tokens;

        let id = sequence.id;
        let row = sequence.row.expect("a running sequence has a row");
        let first_segment = plan.output.state_segments.len() as u32;
        self.take_pages(slot, start + num_tokens);
        self.move_states(slot, (start, certain), num_drafts, &mut plan.output.state_segments);
        let new_blocks = self.send_new_blocks(slot, &mut plan.output.new_blocks);
        plan.output.sequences.push(ScheduledSequence {
            id,
            row,
            start,
            num_tokens,
            num_drafts,
            num_unknown_tokens,
            new_blocks,
            state_segments: first_segment..plan.output.state_segments.len() as u32,
            samples,
            num_output_tokens,
        });
        let epoch = self.sequences.epoch(slot);
        plan.entries.push(EntryInFlight { slot, epoch, num_tokens, num_drafts, samples });
        self.publish_blocks(slot);
    }

    /// The entries that the runner's block tables lack.
    fn send_new_blocks(&mut self, slot: Slot, new_blocks: &mut Vec<NewBlock>) -> Range<u32> {
        let first = new_blocks.len() as u32;
        let tables = &mut self.sequences[slot].block_tables;
        for (group, table) in self.groups.paged.iter().zip(tables) {
            let group = group.number;
            new_blocks.extend(table.send().map(|(index, block)| NewBlock { group, index, block }));
        }
        first..new_blocks.len() as u32
    }

    /// Offers the full blocks of known and scheduled tokens to the prefix cache.
    pub(crate) fn publish_blocks(&mut self, slot: Slot) {
        if !self.config.enable_prefix_caching {
            return;
        }
        let sequence = &mut self.sequences[slot];
        let num_tokens = sequence.num_scheduled_tokens.min(sequence.num_tokens());
        let num_full_blocks = num_tokens / self.config.block_size;
        if num_full_blocks <= sequence.num_published_blocks {
            return;
        }
        sequence.extend_block_hashes(num_tokens, self.config.block_size);
        let first = sequence.num_published_blocks;
        for (number, (group, table)) in
            self.groups.paged.iter().zip(&sequence.block_tables).enumerate()
        {
            let full = table.held_from(first).take_while(|&(index, _)| index < num_full_blocks);
            for (index, block) in full {
                let hash = sequence.block_hashes[index as usize].in_group(group.number as usize);
                let is_new = self.pools[group.pool].publish(block, hash);
                if let Some(watch) = self.cache_watch.as_mut().filter(|_| is_new) {
                    watch.removed(self.pools[watch.pool].lost_names());
                    watch.stored(number, sequence, index, self.config.block_size);
                }
            }
        }
        sequence.num_published_blocks = num_full_blocks;
    }

    fn empty_plan(&mut self) -> Plan {
        Plan {
            token_budget: self.config.max_num_batched_tokens,
            num_prompt_tokens: 0,
            pauses_ahead: false,
            output: SchedulerOutput {
                step: self.next_step,
                sequences: Vec::with_capacity(self.running.len()),
                new_blocks: Vec::new(),
                state_segments: Vec::new(),
                draft_tokens: Vec::new(),
                draft_parents: Vec::new(),
                admitted: Vec::new(),
                block_copies: Vec::new(),
                freed_rows: Vec::new(),
            },
            entries: self.spare_entries.pop().unwrap_or_default(),
        }
    }
}
