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

/// A prompt is counted so often that it can be forgotten in small parts.
const PROMPT: u64 = 1 << 20;

/// More than its share is five quarters of it: one that is a little lucky is not ahead.
const MORE_THAN_SHARE: (u128, u128) = (5, 4);

/// The part of the rows that one that is ahead may take.
const ROWS_OF_AHEAD: (u32, u32) = (1, 2);

/// Who comes waits for half of a step on average: one of those who are ahead takes the third part of what a prompt of the others takes.
const PART_OF_PROMPT: u64 = 3;

/// It has these parts of the tokens that a step may have, at most and at least.
const PARTS_OF_STEP: (u32, u32) = (4, 16);

/// Many rows that go on fill it by themselves: this part of the tokens of a step is for prompts then.
const PART_FOR_PROMPTS: u32 = 32;

/// Those who were here lately.
#[derive(Default)]
pub(super) struct Lately {
    tenants: Vec<u32>,
    step: u64,
    /// Somebody is ahead.
    has_ahead: bool,
    /// Tokens that those who are not ahead have to compute of a prompt, on average.
    mean_prompt: u64,
    /// Buffer of `begin_step`.
    classes: Vec<Class>,
}

/// What the last steps were for a tenant.
#[derive(Default)]
pub(super) struct Service {
    /// In the units of its counter, but without its weight.
    served: u128,
    /// Prompts that were begun, in units of [`PROMPT`], and the tokens of them that were not cached.
    num_prompts: u64,
    num_prompt_tokens: u64,
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
            own.num_prompts -= own.num_prompts >> FORGETTING;
            own.num_prompt_tokens -= own.num_prompt_tokens >> FORGETTING;
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
        let others = lately.tenants.iter().map(|&index| &self.of(index).lately);
        let others = others.filter(|own| !own.is_ahead);
        let sums = others.clone().fold((0, 0), |(num_prompts, num_tokens), own| {
            (num_prompts + own.num_prompts, num_tokens + own.num_prompt_tokens)
        });
        lately.mean_prompt = sums.1.checked_div(sums.0).unwrap_or(0);
        lately.has_ahead = others.count() < lately.tenants.len();
        self.lately = lately;
    }

    /// So many tokens of a prompt are computed that was not begun before.
    pub(crate) fn begin_prompt(&mut self, index: u32, num_tokens: u32) {
        let own = &mut self.of_mut(index).lately;
        own.num_prompts += PROMPT;
        own.num_prompt_tokens += u64::from(num_tokens) * PROMPT;
    }

    /// A step of `max_num_batched_tokens` takes prompts of one that is ahead until it has the first of these numbers of anything,
    /// and the second one of prompts in any case.
    pub(crate) fn tokens_of_ahead(&self, max_num_batched_tokens: u32) -> (u32, u32) {
        let part = |of: u32| (max_num_batched_tokens / of).max(1);
        let wanted = u32::try_from(self.lately.mean_prompt / PART_OF_PROMPT).unwrap_or(u32::MAX);
        let (most, least) = PARTS_OF_STEP;
        (wanted.clamp(part(least), part(most)), part(PART_FOR_PROMPTS))
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

    /// Whether anybody was served far more than one that was here lately.
    pub(crate) fn has_ahead(&self) -> bool {
        self.lately.has_ahead
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
