//! Turns of tenants: the order of the running, and who makes room for whom.
//!
//! A tenant that had the machine for itself may have taken all of it. So rows and blocks are given back to those who
//! come: to a better class at once, and inside a class up to a tenant's share of the rows; one that is ahead keeps half of its
//! share until it is ahead no more. Beyond that nobody takes from anybody, so two that have as much to do as they like do not
//! preempt each other.

use crate::queue::QueueKey;
use crate::scheduler::{Plan, Scheduler};
use crate::sequence::Slot;
use crate::tenants::Rank;

/// So many steps in a row may have nothing of those who are ahead.
const MOST_PAUSES: u32 = 8;

/// Rows of those who are ahead stand still if a step were longer by more than one part in so many with them.
const PART_OF_STEP: u32 = 8;

impl Scheduler {
    /// The place of a running sequence in the order of service.
    pub(crate) fn place_of(&self, slot: Slot) -> ((Rank, u32), QueueKey) {
        let sequence = &self.sequences[slot];
        (self.tenants.rank_of_running(sequence.tenant), sequence.key)
    }

    /// Puts the running in the order of what their tenants were served until now.
    pub(crate) fn order_running(&mut self) {
        self.tenants.rank_running();
        if self.tenants.is_contended() {
            let mut running = std::mem::take(&mut self.running);
            running.sort_unstable_by_key(|&slot| self.place_of(slot));
            self.running = running;
        }
    }

    /// Tokens of a tenant's prompts that a step may still take.
    pub(crate) fn prompt_budget(&self, plan: &Plan, tenant: u32) -> u32 {
        let (all, left) = (self.config.max_num_batched_tokens, plan.token_budget);
        if !self.tenants.is_ahead(tenant) {
            return left;
        }
        if plan.pauses_ahead {
            return 0;
        }
        let (most, least) = self.tenants.tokens_of_ahead(all);
        let room = most.saturating_sub(all - left);
        // However many rows go on, so does a prompt.
        let least = least.saturating_sub(plan.num_prompt_tokens);
        let budget = room.max(least).min(left);
        // What cannot be cut goes whole.
        if self.config.enable_chunked_prefill || budget == 0 { budget } else { left }
    }

    /// Whether those who are ahead stand still in this step: a prompt of another is computed in it, and would wait for their rows.
    pub(crate) fn pauses_ahead(&mut self) -> bool {
        if self.num_pauses >= MOST_PAUSES || !self.tenants.has_ahead() {
            return false;
        }
        let (mut num_tokens, mut num_rows_of_ahead, mut has_prompt) = (0_u32, 0_u32, false);
        for sequence in self.running.iter().map(|&slot| &self.sequences[slot]) {
            let num_lacking = sequence.num_lacking_tokens();
            if !self.tenants.is_ahead(sequence.tenant) {
                num_tokens = num_tokens.saturating_add(num_lacking);
                has_prompt |= num_lacking > 1;
            } else if num_lacking == 1 {
                num_rows_of_ahead += 1;
            }
        }
        let next = self.tenants.first_of(|tenant| !self.tenants.is_ahead(tenant));
        if let Some(slot) = next.filter(|_| !self.free_rows.is_empty() && num_rows_of_ahead > 0)
            && self.fits_now(slot)
        {
            has_prompt = true;
            let num_lacking = self.sequences[slot].num_tokens() - self.cached_prefix.num_tokens;
            num_tokens = num_tokens.saturating_add(num_lacking);
        }
        let num_tokens = num_tokens.min(self.config.max_num_batched_tokens);
        let cost = u64::from(self.config.step_overhead_tokens) + u64::from(num_tokens);
        has_prompt && u64::from(num_rows_of_ahead) * u64::from(PART_OF_STEP) > cost
    }

    /// Whether a step may begin something of a tenant that waits.
    pub(crate) fn may_begin(&self, plan: &Plan, tenant: u32) -> bool {
        let most = self.tenants.most_rows(tenant, self.config.max_num_seqs);
        self.tenants.num_running(tenant) < most && self.prompt_budget(plan, tenant) > 0
    }

    /// Preempts for those who wait and whose turn it is, as many as a step could begin.
    pub(crate) fn make_room(&mut self) {
        let first = self.tenants.first().filter(|_| self.tenants.is_contended());
        // The most usual case by far.
        if first.is_none_or(|slot| self.victim_for(self.sequences[slot].tenant, 0).is_none()) {
            return;
        }
        let waiting: Vec<Slot> =
            self.tenants.iter().take(self.config.max_num_seqs as usize).collect();
        let num_running = self.running.len() as u32;
        let mut budget = self.config.max_num_batched_tokens.saturating_sub(num_running);
        let (mut tenant, mut num_of_tenant) = (None, 0);
        for (index, &slot) in waiting.iter().enumerate() {
            let sequence = &self.sequences[slot];
            let (of, num_tokens) = (sequence.tenant, sequence.num_tokens());
            num_of_tenant = if tenant == Some(of) { num_of_tenant + 1 } else { 0 };
            tenant = Some(of);
            // The blocks of the first are sure; those of others are what rows bring.
            while self.free_rows.len() <= index || (index == 0 && !self.fits_now(slot)) {
                let Some(victim) = self.victim_for(of, num_of_tenant) else { return };
                self.preempt(victim);
                self.num_preemptions_for_tenants += 1;
            }
            budget = budget.saturating_sub(num_tokens);
            if budget == 0 {
                return;
            }
        }
    }

    /// The running sequence that gives way to one of `tenant`, which is to get `num_promised` rows already: the last of
    /// those that must.
    fn victim_for(&self, tenant: u32, num_promised: u32) -> Option<Slot> {
        let (tenants, num_rows) = (&self.tenants, self.config.max_num_seqs);
        let (class, num_own) = (tenants.class(tenant), tenants.num_running(tenant) + num_promised);
        let share = tenants.share_of_rows(tenant, num_rows);
        let lacks_rows = num_own < share.min(tenants.most_rows(tenant, num_rows));
        let gives_way = |other: u32| {
            let is_later = tenants.class(other) > class;
            let of_class = tenants.class(other) == class && other != tenant;
            let share = tenants.share_of_rows(other, num_rows);
            let has_more_than = |rows: u32| tenants.num_running(other) > rows;
            // Who is ahead takes nothing back, or both would take turns.
            let yields = match (tenants.is_ahead(other), tenants.is_ahead(tenant)) {
                (true, false) => has_more_than((share / 2).max(1)),
                (false, true) => false,
                _ => lacks_rows && has_more_than(share),
            };
            is_later || (of_class && yields)
        };
        let mut last = None;
        for &slot in self.running.iter().rev() {
            let other = self.sequences[slot].tenant;
            // The sequences of a tenant are neighbours.
            if last.replace(other) != Some(other) && gives_way(other) {
                return Some(slot);
            }
        }
        None
    }
}
