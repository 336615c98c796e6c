//! What comes in, and the book of what has to come out.

use std::collections::BTreeMap;
use std::sync::Arc;

use quire_scheduler::{
    CacheGroup, CacheKind, CachePool, FinishReason, NewSequence, Policy, Rejected, Scheduler,
    SchedulerConfig, SchedulerOutput, SequenceEvent, SequenceId, StepOutput, StopRule, Tenant,
    TokenId,
};

use crate::model::{EOS, NUM_TOKENS_IN_VOCABULARY, Random, STOP_TOKEN, isolated_run, kv_capacity};
use crate::runner::Faults;

pub(crate) fn random_config(random: &mut Random) -> SchedulerConfig {
    let max_num_seqs = random.within(1, 8);
    let (pools, cache_groups) = random_groups(random);
    let config = SchedulerConfig {
        block_size: random.within(1, 5),
        pools,
        max_num_seqs,
        max_num_batched_tokens: max_num_seqs + random.within(0, 24),
        max_model_len: random.within(4, 70),
        step_overhead_tokens: random.within(0, 20),
        max_num_queued_seqs: random.within(1, 12),
        long_prefill_token_threshold: if random.one_in(2) { 0 } else { random.within(1, 9) },
        enable_chunked_prefill: true,
        policy: if random.one_in(2) { Policy::FirstCome } else { Policy::Priority },
        enable_prefix_caching: !random.one_in(5),
        cache_groups,
    };
    if !random.one_in(5) {
        return config;
    }
    SchedulerConfig {
        max_num_batched_tokens: config.max_num_batched_tokens.max(config.max_model_len - 1),
        long_prefill_token_threshold: 0,
        enable_chunked_prefill: false,
        ..config
    }
}

/// Full attention alone in half of the runs; else up to four groups of any kind, which may share pools.
fn random_groups(random: &mut Random) -> (Vec<CachePool>, Vec<CacheGroup>) {
    let pool = |num_blocks, random: &mut Random| CachePool {
        num_blocks,
        num_resident_blocks: random.within(0, num_blocks),
    };
    let num_blocks = random.within(2, 40);
    if random.one_in(2) {
        let group = CacheGroup { kind: CacheKind::FullAttention, pool: 0 };
        return (vec![pool(num_blocks, random)], vec![group]);
    }
    let num_groups = random.within(1, 4);
    let more_blocks = random.within(2, 30);
    let num_states = random.within(2, 20);
    let pools = [num_blocks * num_groups, more_blocks, num_states].map(|n| pool(n, random)).into();
    let mut groups = Vec::new();
    for _ in 0..num_groups {
        let span = random.within(1, 20);
        let kind = match random.below(5) {
            0 | 1 => CacheKind::FullAttention,
            2 => CacheKind::SlidingWindow { window: span },
            3 => CacheKind::Chunk { chunk: span },
            _ => CacheKind::RecurrentState,
        };
        let num_of_states =
            groups.iter().filter(|group: &&CacheGroup| group.kind == CacheKind::RecurrentState);
        let kind = match kind {
            // Each needs two blocks.
            CacheKind::RecurrentState if num_of_states.count() as u32 * 2 + 2 > num_states => {
                CacheKind::FullAttention
            }
            kind => kind,
        };
        let pool = if kind == CacheKind::RecurrentState { 2 } else { random.below(2) as u32 };
        groups.push(CacheGroup { kind, pool });
    }
    (pools, groups)
}

pub(crate) struct Traffic {
    pub(crate) config: SchedulerConfig,
    unfinished: BTreeMap<SequenceId, Expected>,
    tenants: Vec<Tenant>,
    /// Prompts that others begin with, then also conversations that ended.
    beginnings: Vec<Vec<TokenId>>,
    next_id: u64,
    one_arrival_in: u64,
    one_cancel_in: u64,
    one_panic_in: Option<u64>,
    one_spoiled_in: Option<u64>,
    one_proposal_in: Option<u64>,
    pub(crate) num_finished: u64,
    pub(crate) num_culprits: u64,
    pub(crate) num_capped_by_pool: u64,
}

struct Expected {
    tokens: Vec<TokenId>,
    finish: FinishReason,
    tenant: Tenant,
    priority: i32,
    cache_salt: u64,
    skip_prefix_cache: bool,
    num_prompt_tokens: usize,
    num_received: usize,
    /// Each step that computes this position or a later one panics.
    panics_at: Option<u32>,
    max_num_tokens: usize,
}

impl Traffic {
    pub(crate) fn new(config: SchedulerConfig, random: &mut Random) -> Self {
        let beginnings = (0..3).map(|_| random_tokens(random, 12)).collect();
        Self {
            config,
            unfinished: BTreeMap::new(),
            tenants: random_tenants(random),
            beginnings,
            next_id: 0,
            one_arrival_in: random.below(6) + 1,
            one_cancel_in: random.below(40) + 2,
            one_panic_in: random.one_in(4).then(|| random.below(60) + 5),
            one_spoiled_in: random.one_in(4).then(|| random.below(60) + 5),
            one_proposal_in: random.one_in(2).then(|| random.below(4) + 1),
            num_finished: 0,
            num_culprits: 0,
            num_capped_by_pool: 0,
        }
    }

    pub(crate) fn add_some(&mut self, scheduler: &mut Scheduler, random: &mut Random) {
        while random.one_in(self.one_arrival_in) {
            let new = self.random_sequence(random);
            self.add(&new, scheduler, random);
            if random.one_in(3) {
                return;
            }
        }
    }

    fn random_sequence(&mut self, random: &mut Random) -> NewSequence {
        let beginning = random.below(self.beginnings.len() as u64) as usize;
        let mut prompt = self.beginnings[beginning].clone();
        prompt.truncate(random.within(0, prompt.len() as u32 + 8) as usize);
        if !random.one_in(4) {
            prompt.extend(random_tokens(random, 10));
        }
        if random.one_in(10) {
            self.beginnings[beginning].clone_from(&prompt);
        }
        self.next_id += 1;
        NewSequence {
            id: SequenceId(self.next_id),
            prompt,
            stop: StopRule {
                max_tokens: random.within(1, 40),
                min_tokens: if random.one_in(3) { random.within(0, 10) } else { 0 },
                eos_token_ids: Arc::new([EOS]),
                stop_token_ids: if random.one_in(3) {
                    Arc::new([STOP_TOKEN])
                } else {
                    Arc::new([])
                },
                ignore_eos: random.one_in(2),
            },
            tenant: self.tenants[random.below(self.tenants.len() as u64) as usize],
            priority: random.below(3) as i32 - 1,
            cache_salt: u64::from(random.one_in(8)),
            skip_prefix_cache: random.one_in(10),
        }
    }

    fn add(&mut self, new: &NewSequence, scheduler: &mut Scheduler, random: &mut Random) {
        let num_tokens = new.prompt.len();
        let kv_capacity = kv_capacity(&self.config);
        let fits = (1..self.config.max_model_len as usize).contains(&num_tokens)
            && num_tokens <= kv_capacity;
        let is_full = scheduler.stats().num_waiting >= self.config.max_num_queued_seqs;
        let id = new.id;
        match scheduler.add(new.clone()) {
            Ok(()) => assert!(fits && !is_full, "{num_tokens} tokens should be rejected"),
            Err(Rejected::QueueFull { .. }) => return assert!(fits && is_full),
            Err(rejected) => return assert!(!fits, "{rejected}"),
        }
        assert_eq!(scheduler.add(new.clone()), Err(Rejected::DuplicateId { id }));
        let (tokens, finish) = isolated_run(new, &self.config);
        let capped_by_pool = finish == FinishReason::Length && tokens.len() > kv_capacity;
        self.num_capped_by_pool += u64::from(capped_by_pool);
        let panics = self.one_panic_in.is_some() && random.one_in(10);
        let expected = Expected {
            panics_at: panics.then(|| random.within(0, tokens.len() as u32)),
            max_num_tokens: (num_tokens + new.stop.max_tokens as usize)
                .min(self.config.max_model_len as usize)
                .min(kv_capacity + 1),
            tokens,
            finish,
            tenant: new.tenant,
            priority: new.priority,
            cache_salt: new.cache_salt,
            skip_prefix_cache: new.skip_prefix_cache,
            num_prompt_tokens: num_tokens,
            num_received: 0,
        };
        self.unfinished.insert(id, expected);
    }

    /// Guesses for some sequences: what they will sample, with a mistake somewhere.
    pub(crate) fn propose_some(&self, scheduler: &mut Scheduler, random: &mut Random) {
        let Some(one_in) = self.one_proposal_in else { return };
        for (&id, expected) in &self.unfinished {
            if !random.one_in(one_in) {
                continue;
            }
            let next = expected.num_prompt_tokens + expected.num_received;
            let mut drafts = expected.tokens[next..].to_vec();
            drafts.extend(random_tokens(random, 3));
            drafts.truncate(random.within(0, 9) as usize);
            if !random.one_in(3) {
                let wrong = random.below(drafts.len() as u64 + 1) as usize;
                drafts.iter_mut().skip(wrong).take(1).for_each(|draft| *draft = 39 - *draft % 40);
            }
            scheduler.propose(id, &drafts);
        }
    }

    /// Whom the caller gives up.
    pub(crate) fn choose_to_cancel(&self, random: &mut Random) -> Option<SequenceId> {
        let num_unfinished = self.unfinished.len() as u64;
        if num_unfinished == 0 || !random.one_in(self.one_cancel_in) {
            return None;
        }
        let index = random.below(num_unfinished) as usize;
        self.unfinished.keys().nth(index).copied()
    }

    pub(crate) fn assert_may_read_cache(&self, output: &SchedulerOutput) {
        for admitted in &output.admitted {
            let skips = self.unfinished[&admitted.id].skip_prefix_cache;
            let may_read = self.config.enable_prefix_caching && !skips;
            assert!(may_read || admitted.num_cached_tokens == 0, "reads a cache it may not");
        }
    }

    pub(crate) fn has_panics(&self) -> bool {
        self.one_panic_in.is_some()
    }

    /// A panic without a culprit never strikes a lone sequence: it would be blamed rightly.
    pub(crate) fn faults(&self, output: &SchedulerOutput, random: &mut Random) -> Faults {
        let num_sequences = output.sequences.len();
        let has_culprit = output.sequences.iter().any(|sequence| {
            let panics_at = self.unfinished[&sequence.id].panics_at;
            panics_at.is_some_and(|position| position < sequence.start + sequence.num_tokens)
        });
        let strikes = num_sequences > 1 && self.one_panic_in.is_some_and(|n| random.one_in(n));
        let spoils = self.one_spoiled_in.is_some_and(|n| random.one_in(n));
        Faults {
            panic: has_culprit || strikes,
            spoiled: spoils.then(|| random.below(num_sequences as u64) as usize),
            cache_salts: output
                .sequences
                .iter()
                .map(|sequence| self.unfinished[&sequence.id].cache_salt)
                .collect(),
        }
    }

    /// An event: the next tokens of the isolated run, and its end at the right place.
    pub(crate) fn take(&mut self, event: &SequenceEvent, result: Option<&StepOutput>) {
        let expected = self.unfinished.get_mut(&event.id).expect("each sequence ends once");
        let start = expected.num_prompt_tokens + expected.num_received;
        let end = start + event.new_tokens.len();
        assert!(end <= expected.tokens.len(), "sequence {} got too much", event.id.0);
        assert_eq!(expected.tokens[start..end], *event.new_tokens, "sequence {}", event.id.0);
        expected.num_received += event.new_tokens.len();
        let is_complete = end == expected.tokens.len();
        match event.finish {
            None => assert!(!is_complete, "sequence {} should have ended", event.id.0),
            Some(FinishReason::Error) => {
                if let Some(result) = result {
                    let index = event.index_in_step.expect("the row that failed");
                    assert!(result.sequences[index as usize].failed, "nothing failed");
                } else {
                    assert!(expected.panics_at.is_some(), "an innocent sequence is blamed");
                    self.num_culprits += 1;
                }
                self.unfinished.remove(&event.id);
            }
            Some(finish) => {
                assert!(is_complete, "sequence {} ended too early", event.id.0);
                assert_eq!(finish, expected.finish);
                let last_computed = expected.tokens.len() as u32 - 2;
                let survives = expected.panics_at.is_none_or(|position| position > last_computed);
                assert!(survives, "a sequence outlived the step it panics in");
                self.num_finished += 1;
                let ended = self.unfinished.remove(&event.id).expect("it was there");
                if ended.tokens.len() < 40 {
                    let index = event.id.0 as usize % self.beginnings.len();
                    self.beginnings[index] = ended.tokens;
                }
            }
        }
    }

    pub(crate) fn cancelled(&mut self, id: SequenceId) {
        self.unfinished.remove(&id);
    }

    pub(crate) fn oldest_unfinished(&self) -> Option<SequenceId> {
        self.unfinished.keys().next().copied()
    }

    pub(crate) fn num_unfinished_tokens(&self) -> usize {
        self.unfinished.values().map(|expected| expected.tokens.len()).sum()
    }

    pub(crate) fn max_num_tokens(&self, id: SequenceId) -> usize {
        self.unfinished[&id].max_num_tokens
    }

    pub(crate) fn tenant(&self, id: SequenceId) -> Tenant {
        self.unfinished[&id].tenant
    }

    pub(crate) fn num_tenants(&self) -> usize {
        self.tenants.len()
    }

    /// In the order of service of a tenant.
    pub(crate) fn place(&self, id: SequenceId) -> (i32, SequenceId) {
        match self.config.policy {
            Policy::FirstCome => (0, id),
            Policy::Priority => (self.unfinished[&id].priority, id),
        }
    }

    pub(crate) fn assert_all_ended(&self) {
        assert!(self.unfinished.is_empty(), "some sequences never ended");
    }
}

/// One in half of the runs.
fn random_tenants(random: &mut Random) -> Vec<Tenant> {
    let num_tenants = if random.one_in(2) { 1 } else { random.within(2, 5) };
    let tenant = |index| Tenant {
        index,
        weight: random.within(1, 4),
        class: if random.one_in(3) { random.below(3) as i32 } else { 0 },
    };
    (0..num_tenants).map(tenant).collect()
}

fn random_tokens(random: &mut Random, most: u32) -> Vec<TokenId> {
    (0..random.within(0, most)).map(|_| random.below(NUM_TOKENS_IN_VOCABULARY) as u32).collect()
}
