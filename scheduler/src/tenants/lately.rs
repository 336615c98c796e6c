//! Who was here lately, and who is ahead of them: it leaves room in steps and rows, so that one that comes back waits for little.
//!
//! Counters alone bound what a tenant waits for others by the length of a step, which a flood always fills. So the step of one that
//! was served far more than another that was here lately has a part of the tokens only, and some rows stay free. With
//! one tenant, or with several that take what is theirs, nobody is ahead.

use super::Tenants;

/// For so many steps who was here counts as one who may come back at any time.
const LATELY_STEPS: u64 = 1024;

/// What was served is forgotten by one part in 2 to this in each step.
const FORGETTING: u32 = 10;

/// More than its share is five quarters of it: one that is a little lucky is not ahead.
const MORE_THAN_SHARE: (u128, u128) = (5, 4);

/// The part of the rows that one that is ahead may take.
const ROWS_OF_AHEAD: (u32, u32) = (3, 4);

/// A step of so many tokens takes prompts of one that is ahead until it has this many of anything.
pub(crate) fn tokens_of_ahead(max_num_batched_tokens: u32) -> u32 {
    (max_num_batched_tokens / 4).max(1)
}

/// So many tokens of prompts a step has in any case.
pub(crate) fn least_tokens_of_ahead(max_num_batched_tokens: u32) -> u32 {
    (max_num_batched_tokens / 16).max(1)
}

/// Those who were here lately.
#[derive(Default)]
pub(super) struct Lately {
    tenants: Vec<u32>,
    step: u64,
    /// Buffer of `begin_step`.
    classes: Vec<Class>,
}

/// What the last steps were for a tenant.
#[derive(Default)]
pub(super) struct Service {
    /// In the units of its counter, but without its weight.
    served: u128,
    last_here: u64,
    /// It is among those who were here lately.
    is_listed: bool,
    is_ahead: bool,
}

/// Sums over those of a class who were here lately.
struct Class {
    number: i32,
    served: u128,
    weight: u128,
    least_counter: u128,
}

impl Service {
    pub(super) fn add(&mut self, served: u128) {
        self.served += served;
    }
}

impl Tenants {
    /// A step is about to be made: says anew who is ahead.
    pub(crate) fn begin_step(&mut self) {
        let mut lately = std::mem::take(&mut self.lately);
        lately.step += 1;
        for position in 0..self.present.len() {
            self.of_mut(self.present[position]).lately.last_here = lately.step;
        }
        lately.tenants.retain(|&index| {
            let own = &mut self.of_mut(index).lately;
            own.served -= own.served >> FORGETTING;
            own.is_listed = lately.step - own.last_here <= LATELY_STEPS;
            own.is_listed
        });
        self.sum_up(&lately.tenants, &mut lately.classes);
        let first = lately.classes.iter().map(|sums| sums.number).min();
        for &index in &lately.tenants {
            let class = self.of(index).rank.class;
            let sums = lately.classes.iter().find(|sums| sums.number == class);
            let has_much = sums.is_some_and(|sums| self.has_much_more(index, sums));
            // Before those of better classes everybody is.
            self.of_mut(index).lately.is_ahead =
                has_much || first.is_some_and(|first| first < class);
        }
        self.lately = lately;
    }

    fn sum_up(&self, tenants: &[u32], classes: &mut Vec<Class>) {
        classes.clear();
        for own in tenants.iter().map(|&index| self.of(index)) {
            let (class, counter) = (own.rank.class, own.rank.counter);
            let (served, weight) = (own.lately.served, u128::from(own.weight));
            match classes.iter_mut().find(|sums| sums.number == class) {
                Some(sums) => {
                    sums.served += served;
                    sums.weight += weight;
                    sums.least_counter = sums.least_counter.min(counter);
                }
                None => {
                    classes.push(Class { number: class, served, weight, least_counter: counter });
                }
            }
        }
    }

    /// Than another one of its class, by a good part of what that one may be behind; and than its share.
    fn has_much_more(&self, index: u32, sums: &Class) -> bool {
        let own = self.of(index);
        let (more, than) = MORE_THAN_SHARE;
        own.rank.counter > sums.least_counter + self.credit / 2
            && own.lately.served * sums.weight * than > sums.served * u128::from(own.weight) * more
    }

    /// A tenant has something to do again.
    pub(super) fn come_back(&mut self, index: u32) {
        let step = self.lately.step;
        let own = &mut self.of_mut(index).lately;
        own.last_here = step;
        if !own.is_listed {
            // What was before is long ago.
            *own = Service { is_listed: true, last_here: step, ..Service::default() };
            self.lately.tenants.push(index);
        }
    }

    /// Whether a tenant was served far more than one that was here lately.
    pub(crate) fn is_ahead(&self, index: u32) -> bool {
        self.of(index).lately.is_ahead
    }

    /// How many of `num_rows` rows a tenant may have.
    pub(crate) fn most_rows(&self, index: u32, num_rows: u32) -> u32 {
        let (part, of) = ROWS_OF_AHEAD;
        if self.is_ahead(index) { (num_rows * part / of).max(1) } else { num_rows }
    }
}
