//! Who may start: a waiting sequence whose blocks, and those that the running will need, are free.

use crate::output::Admitted;
use crate::scheduler::{Plan, Scheduler};
use crate::sequence::{Sequence, Slot};
use crate::tenants::PROMPT_COST;

/// Which part of their output limit sequences are expected to reach, in thousandths.
///
/// Falls slowly while memory suffices, and jumps up when a sequence had to be preempted.
pub(crate) struct AdmissionRatio(u32);

impl Default for AdmissionRatio {
    fn default() -> Self {
        Self(700)
    }
}

impl AdmissionRatio {
    const LEAST: u32 = 100;
    const MOST: u32 = 1000;
    /// Limits above this say nothing about the length of the output.
    const MAX_EXPECTED_TOKENS: u32 = 4096;

    pub(crate) fn decay(&mut self) {
        self.0 = (self.0 - 1).max(Self::LEAST);
    }

    pub(crate) fn raise(&mut self) {
        self.0 = self.0.midpoint(Self::MOST);
    }

    /// Tokens that the sequence is expected to have in the end.
    fn num_expected_tokens(&self, sequence: &Sequence) -> u32 {
        let num_left = sequence.max_num_tokens - sequence.num_total_tokens();
        let num_expected = num_left.min(Self::MAX_EXPECTED_TOKENS) * self.0 / Self::MOST;
        sequence.num_total_tokens() + num_expected
    }
}

impl Scheduler {
    /// In order; the first that does not fit stops the rest, so that none is overtaken for ever.
    ///
    /// `before`: only those whose tenant goes before this one.
    pub(crate) fn admit_waiting(&mut self, plan: &mut Plan, before: Option<u32>) {
        let nobody_waits = self.tenants.num_waiting() == 0;
        if nobody_waits || plan.token_budget == 0 || self.free_rows.is_empty() {
            return;
        }
        let next = |own: &Self, plan: &Plan| {
            let slot = own.tenants.first_of(|tenant| own.may_begin(plan, tenant))?;
            let tenant = own.sequences[slot].tenant;
            before.is_none_or(|other| own.tenants.outranks(tenant, other)).then_some(slot)
        };
        let mut reserved = self.take_reserved();
        while let Some(slot) = next(self, plan) {
            let is_cut = self.sequences[slot].num_tokens() > plan.token_budget;
            if plan.token_budget == 0
                || (is_cut && !self.config.enable_chunked_prefill)
                || !self.try_admit(plan, slot, Some(&reserved))
            {
                break;
            }
            self.add_needs_to_come(slot, &mut reserved);
            self.schedule_sequence(plan, slot, 0);
        }
        self.reserved = reserved;
    }

    /// One suspect, alone: the rest waits or makes room.
    pub(crate) fn schedule_suspect(&mut self, plan: &mut Plan) {
        let is_suspect = |slot: &Slot| self.sequences[*slot].suspect;
        if let Some(slot) = self.running.iter().copied().find(is_suspect) {
            self.schedule_sequence(plan, slot, 0);
            return;
        }
        let slot = self.tenants.iter().find(is_suspect).expect("a suspect runs or waits");
        while !self.try_admit(plan, slot, None) {
            let victim = *self.running.last().expect("a sequence that is alone always fits");
            self.preempt(victim);
        }
        self.schedule_sequence(plan, slot, 0);
    }

    /// Moves a waiting sequence to the running ones, with a row, its cached prefix and the promise of
    /// blocks for all its tokens.
    ///
    /// `reserved`: free blocks to leave for the running, a number a pool. One that would run alone, or a
    /// suspect (`None`), needs no more than its tokens take.
    fn try_admit(&mut self, plan: &mut Plan, slot: Slot, reserved: Option<&[u64]>) -> bool {
        if !self.fits(slot, reserved) {
            return false;
        }
        let start = self.cached_prefix.num_tokens;
        let num_tokens = self.sequences[slot].num_tokens();
        self.adopt_cached_prefix(slot);
        assert!(self.entitle(slot, num_tokens), "the blocks were counted");
        self.start(plan, slot, start);
        true
    }

    /// Whether a row is free, and blocks beside those `reserved`. Leaves what it found in `cached_prefix`.
    fn fits(&mut self, slot: Slot, reserved: Option<&[u64]>) -> bool {
        if self.free_rows.is_empty() {
            return false;
        }
        self.find_cached_prefix(slot);
        let num_tokens = self.sequences[slot].num_tokens();
        let start = self.cached_prefix.num_tokens;
        let reserved =
            reserved.filter(|_| !self.running.is_empty() && !self.sequences[slot].suspect);
        let end = match reserved {
            Some(_) => self.admission_ratio.num_expected_tokens(&self.sequences[slot]),
            None => num_tokens,
        };
        let mut needs = std::mem::take(&mut self.needs);
        needs.clear();
        needs.resize(self.pools.len(), 0);
        self.add_needs(slot, (start, end), &mut needs);
        self.add_needs_of_found(&mut needs);
        let fits = self.pools.iter().enumerate().all(|(index, pool)| {
            let reserved = reserved.map_or(0, |reserved| reserved[index]);
            needs[index] + reserved <= u64::from(pool.num_available())
        });
        self.needs = needs;
        fits
    }

    /// Whether it would be admitted if it were the first.
    pub(crate) fn fits_now(&mut self, slot: Slot) -> bool {
        let reserved = self.take_reserved();
        let fits = self.fits(slot, Some(&reserved));
        self.reserved = reserved;
        fits
    }

    fn start(&mut self, plan: &mut Plan, slot: Slot, num_cached_tokens: u32) {
        let row = self.free_rows.pop().expect("a free row was seen");
        let sequence = &mut self.sequences[slot];
        sequence.row = Some(row);
        sequence.num_published_blocks = num_cached_tokens / self.config.block_size;
        sequence.num_computed_tokens = num_cached_tokens;
        if sequence.num_preemptions == 0
            && self.config.enable_prefix_caching
            && !sequence.skip_prefix_cache
        {
            self.prefix_cache_queries += u64::from(sequence.num_tokens());
            self.prefix_cache_hits += u64::from(num_cached_tokens);
        }
        plan.output.admitted.push(Admitted { id: sequence.id, row, num_cached_tokens });
        let (tenant, key) = (sequence.tenant, sequence.key);
        if sequence.num_preemptions == 0 {
            // Who gives way pays nothing for being computed again.
            let num_computed = sequence.num_tokens() - num_cached_tokens;
            self.tenants.charge(tenant, num_computed, PROMPT_COST);
            self.tenants.begin_prompt(tenant, num_computed);
        }
        self.tenants.row_taken(tenant);
        self.tenants.remove(tenant, key);
        let place = self.place_of(slot);
        let index = self.running.partition_point(|&other| self.place_of(other) < place);
        self.running.insert(index, slot);
    }

    /// The blocks that the running are expected to take, a number a pool; to be put back into `reserved`.
    fn take_reserved(&mut self) -> Vec<u64> {
        let mut reserved = std::mem::take(&mut self.reserved);
        reserved.clear();
        reserved.resize(self.pools.len(), 0);
        self.running.iter().for_each(|&slot| self.add_needs_to_come(slot, &mut reserved));
        reserved
    }

    /// Adds to `needs`, a number a pool, the blocks that a running sequence is expected to take beyond
    /// those it is promised.
    fn add_needs_to_come(&self, slot: Slot, needs: &mut [u64]) {
        let sequence = &self.sequences[slot];
        let end = self.admission_ratio.num_expected_tokens(sequence);
        self.add_needs(slot, (sequence.num_scheduled_tokens, end), needs);
    }
}
