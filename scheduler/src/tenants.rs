//! Whose turn it is: strict classes of tenants, and inside a class the one that was served least for its weight.
//!
//! The counters are those of the Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models",
//! OSDI 2024, arXiv 2401.00588, algorithm 2): what a tenant was served, in weighted tokens over its weight. One that comes
//! back is lifted to the least of those that wait, so that nobody saves up turns. Ours is lifted to some steps' work below
//! that: one that asks now and then for less than its share comes back all the time, and would never have what it left.

mod lately;

use std::collections::BTreeMap;

use crate::queue::{QueueKey, WaitingQueue};
use crate::sequence::Slot;

/// Numbers that tenants may have.
pub const MAX_TENANTS: u32 = 4096;

/// The largest weight that counts.
pub const MAX_TENANT_WEIGHT: u32 = 10_000;

/// What a computed token of a prompt and one of an answer cost, as in the paper's evaluation.
pub const PROMPT_COST: u32 = 1;
pub const OUTPUT_COST: u32 = 2;

/// Steps of prompts that a tenant of weight 1 may have ahead when it comes back.
pub const CREDIT_STEPS: u32 = 16;

/// A cost of 1 at weight 1: parts of it are counted, so that large weights are exact enough.
const UNIT: u128 = 1 << 20;

/// For whom a sequence is computed. The last added sequence's weight and class hold for all of its tenant.
#[derive(Copy, Clone, Eq, PartialEq, Debug)]
pub struct Tenant {
    /// The caller's number, below [`MAX_TENANTS`]; small ones take less memory.
    pub index: u32,
    /// Its share among those of its class; 1 to [`MAX_TENANT_WEIGHT`], others count as the nearest of these.
    pub weight: u32,
    /// Lower is served first, as long as it has anything to do.
    pub class: i32,
}

impl Default for Tenant {
    fn default() -> Self {
        Self { index: 0, weight: 1, class: 0 }
    }
}

/// The place of a tenant in the order of service.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Default, Debug)]
pub(crate) struct Rank {
    class: i32,
    counter: u128,
}

#[derive(Default)]
struct State {
    weight: u32,
    rank: Rank,
    /// The rank when the running were last put in order.
    rank_of_running: Rank,
    waiting: WaitingQueue,
    num_running: u32,
    lately: lately::Service,
}

/// All tenants, with the sequences that wait.
pub(crate) struct Tenants {
    /// How far below the others one that comes back may be.
    credit: u128,
    all: Vec<State>,
    /// Those with a sequence that waits or runs.
    present: Vec<u32>,
    lately: lately::Lately,
    num_waiting: u32,
    /// For each class the tenant whose queue was the last to become empty.
    last_to_wait: BTreeMap<i32, u32>,
}

impl Tenants {
    /// Of a scheduler whose steps compute so many tokens.
    pub(crate) fn new(max_num_batched_tokens: u32) -> Self {
        Self {
            credit: u128::from(CREDIT_STEPS) * u128::from(max_num_batched_tokens) * UNIT,
            all: Vec::new(),
            present: Vec::new(),
            lately: lately::Lately::default(),
            num_waiting: 0,
            last_to_wait: BTreeMap::new(),
        }
    }

    /// A new sequence waits.
    pub(crate) fn arrive(&mut self, tenant: Tenant, key: QueueKey, slot: Slot) {
        let index = tenant.index;
        if self.all.len() <= index as usize {
            self.all.resize_with(index as usize + 1, State::default);
        }
        let is_other_class = self.of(index).rank.class != tenant.class;
        if self.of(index).waiting.is_empty() || is_other_class {
            let least = self.least_counter(tenant).saturating_sub(self.credit);
            let own = self.of_mut(index);
            // What it was served in another class says nothing here.
            let counter = if is_other_class { 0 } else { own.rank.counter };
            own.rank = Rank { class: tenant.class, counter: counter.max(least) };
            if own.num_running == 0 {
                own.rank_of_running = own.rank;
            }
        }
        self.of_mut(index).weight = tenant.weight.clamp(1, MAX_TENANT_WEIGHT);
        self.insert(index, key, slot);
    }

    /// Of the others of its class that wait; when none does, of the last that did.
    fn least_counter(&self, tenant: Tenant) -> u128 {
        let of_class = |&index: &u32| self.of(index).rank.class == tenant.class;
        let others = self.waiting_tenants().filter(|&index| index != tenant.index);
        let least = others.filter(of_class).map(|index| self.of(index).rank.counter).min();
        let last = || {
            let last = self.last_to_wait.get(&tenant.class).copied().filter(of_class)?;
            Some(self.of(last).rank.counter)
        };
        least.or_else(last).unwrap_or(0)
    }

    /// A sequence waits again.
    pub(crate) fn insert(&mut self, index: u32, key: QueueKey, slot: Slot) {
        self.add_present(index);
        self.of_mut(index).waiting.insert(key, slot);
        self.num_waiting += 1;
    }

    /// A sequence waits no more.
    pub(crate) fn remove(&mut self, index: u32, key: QueueKey) {
        let own = self.of_mut(index);
        own.waiting.remove(key);
        if own.waiting.is_empty() {
            let class = own.rank.class;
            self.last_to_wait.insert(class, index);
        }
        self.num_waiting -= 1;
        self.drop_absent(index);
    }

    pub(crate) fn row_taken(&mut self, index: u32) {
        self.add_present(index);
        self.of_mut(index).num_running += 1;
    }

    pub(crate) fn row_freed(&mut self, index: u32) {
        self.of_mut(index).num_running -= 1;
        self.drop_absent(index);
    }

    /// So many tokens were served, each of which costs `cost`.
    pub(crate) fn charge(&mut self, index: u32, num_tokens: u32, cost: u32) {
        let own = self.of_mut(index);
        let served = u128::from(num_tokens) * u128::from(cost) * UNIT;
        own.rank.counter += served / u128::from(own.weight.max(1));
        own.lately.add(served);
    }

    /// The first in the order of service.
    pub(crate) fn first(&self) -> Option<Slot> {
        self.first_of(|_| true)
    }

    /// The first of those whose tenants may go; classes are strict, so none of a worse one than the best that waits.
    pub(crate) fn first_of(&self, may_go: impl Fn(u32) -> bool) -> Option<Slot> {
        let class = self.waiting_tenants().map(|index| self.class(index)).min()?;
        let of_class = self.waiting_tenants().filter(|&index| self.class(index) == class);
        let next =
            of_class.filter(|&index| may_go(index)).min_by_key(|&index| self.place(index))?;
        self.of(next).waiting.first()
    }

    /// In the order of service as it is now, tenant after tenant.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        let mut order: Vec<u32> = self.waiting_tenants().collect();
        order.sort_unstable_by_key(|&index| self.place(index));
        order.into_iter().flat_map(|index| self.of(index).waiting.iter())
    }

    /// Of equal ranks the one that runs less goes first.
    fn place(&self, index: u32) -> (Rank, u32, u32) {
        let own = self.of(index);
        (own.rank, own.num_running, index)
    }

    /// Whether `index` goes before `other`.
    pub(crate) fn outranks(&self, index: u32, other: u32) -> bool {
        self.of(index).rank < self.of(other).rank
    }

    /// More than one tenant has something to do.
    pub(crate) fn is_contended(&self) -> bool {
        self.present.len() > 1
    }

    pub(crate) fn num_waiting(&self) -> u32 {
        self.num_waiting
    }

    pub(crate) fn num_running(&self, index: u32) -> u32 {
        self.of(index).num_running
    }

    pub(crate) fn class(&self, index: u32) -> i32 {
        self.of(index).rank.class
    }

    /// How many of `num_rows` rows a tenant has while all present ones of its class want as many as they can get; at least 1.
    pub(crate) fn share_of_rows(&self, index: u32, num_rows: u32) -> u32 {
        let own = self.of(index);
        let of_class = self.present.iter().map(|&other| self.of(other));
        let total: u64 = of_class
            .filter(|other| other.rank.class == own.rank.class)
            .map(|other| u64::from(other.weight))
            .sum();
        let share = u64::from(num_rows) * u64::from(own.weight) / total.max(1);
        (share as u32).max(1)
    }

    /// The running are about to be put in the order of the ranks as they are now.
    pub(crate) fn rank_running(&mut self) {
        for position in 0..self.present.len() {
            let own = self.of_mut(self.present[position]);
            own.rank_of_running = own.rank;
        }
    }

    pub(crate) fn rank_of_running(&self, index: u32) -> (Rank, u32) {
        (self.of(index).rank_of_running, index)
    }

    fn waiting_tenants(&self) -> impl Iterator<Item = u32> + '_ {
        self.present.iter().copied().filter(|&index| !self.of(index).waiting.is_empty())
    }

    fn add_present(&mut self, index: u32) {
        let own = self.of(index);
        if own.num_running == 0 && own.waiting.is_empty() {
            self.present.push(index);
            self.come_back(index);
        }
    }

    fn drop_absent(&mut self, index: u32) {
        let own = self.of(index);
        if own.num_running == 0 && own.waiting.is_empty() {
            self.present.retain(|&other| other != index);
        }
    }

    fn of(&self, index: u32) -> &State {
        &self.all[index as usize]
    }

    fn of_mut(&mut self, index: u32) -> &mut State {
        &mut self.all[index as usize]
    }

    /// Counts of waiting and running sequences, from what is kept of each tenant.
    pub(crate) fn check(&self) -> Result<(u32, u32), String> {
        let is_present = |own: &State| own.num_running > 0 || !own.waiting.is_empty();
        let num_present = self.all.iter().filter(|own| is_present(own)).count();
        if num_present != self.present.len() {
            return Err("a tenant is present without a sequence, or absent with one".to_owned());
        }
        let num_waiting = self.all.iter().map(|own| own.waiting.num_sequences()).sum();
        let num_running = self.all.iter().map(|own| own.num_running).sum();
        if num_waiting != self.num_waiting {
            return Err("the waiting are miscounted".to_owned());
        }
        Ok((num_waiting, num_running))
    }
}
