//! Which drafts a step verifies: as many as bring the most tokens a second, over all sequences of the step.
//!
//! What is expected of drafts may be wrong, and whether they have become better only a trial tells. So what they really lose
//! is counted, and bounded by a share of the time (`Budget`): of those that were expected to pay, and of trials.

use super::budget::Budget;
use super::step_cost::StepCost;

/// Drafts must promise so much more than none, since they may be worse than they promise.
const LEAST_GAIN: f64 = 1.1;
/// Of rows that were never measured, at most so many times those that were are tried.
const MOST_GROWTH: usize = 2;
/// Steps without drafts that are measured before the first with some.
const FIRST_STEPS: u32 = 3;
/// After so many steps one way the other is tried once, to measure it anew …
const TRIAL_INTERVAL: u32 = 64;
/// … drafts sooner at first, while little is known of them: after so many steps, then twice as many, and so on.
const FIRST_TRIAL: u32 = 4;
/// … where it is not much worse than that. Of drafts that take time only a trial tells how good they are.
const LEAST_OF_TRIAL: f64 = 0.75;

#[derive(Default)]
pub struct Choice {
    offers: Vec<Offer>,
    /// How many drafts of each sequence are taken.
    chosen: Vec<usize>,
    /// Steps since the other way was taken.
    steps_with: u32,
    steps_without: u32,
    /// Trials of drafts so far.
    num_trials: u32,
    taken: Taken,
    /// The last trial paid, but for what it took to catch up, so it is gone on with.
    trial_paid: bool,
    trials: Budget,
    useful: Budget,
}

/// Which drafts the last step had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Taken {
    #[default]
    None,
    /// Some that were expected to pay.
    Useful,
    Trial,
}

/// A step that did nothing but decode.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    pub num_sequences: usize,
    /// What they got.
    pub num_tokens: usize,
    /// Seconds of the step.
    pub step: f64,
    /// Seconds that its drafts took to make, and those that were expected: without catching up.
    pub making: f64,
    pub expected_making: f64,
}

#[derive(Clone, Copy)]
struct Offer {
    /// That the draft and those before it are right.
    chance: f64,
    sequence: usize,
    /// 1 for the first draft of a sequence.
    position: usize,
}

impl Choice {
    pub fn clear(&mut self) {
        self.offers.clear();
    }

    /// The next draft of a sequence.
    pub fn offer(&mut self, sequence: usize, position: usize, chance: f64) {
        self.offers.push(Offer { chance, sequence, position });
    }

    /// Drafts of a sequence that are taken: the first ones.
    pub fn num_chosen(&self, sequence: usize) -> usize {
        self.chosen[sequence]
    }

    /// Takes the likeliest drafts, as long as each makes the step's tokens a second more. To make them up to a position
    /// takes `drafting` seconds.
    pub fn choose(
        &mut self,
        num_sequences: usize,
        cost: &StepCost,
        drafting: &dyn Fn(usize) -> f64,
    ) {
        // A draft is never likelier than the one before it, so what is taken of a sequence is a beginning.
        self.offers.sort_by(|a, b| b.chance.total_cmp(&a.chance));
        let (most_useful, gain) = self.most_useful(num_sequences, cost, drafting);
        let takes_time = drafting(1) > 0.0;
        let num_measured = cost.num_measured(num_sequences);
        self.taken = self.take_or_try((most_useful, gain), num_measured, takes_time);
        let num_taken = if self.taken == Taken::None { 0 } else { most_useful };
        self.chosen.clear();
        self.chosen.resize(num_sequences, 0);
        self.offers[..num_taken].iter().for_each(|offer| self.chosen[offer.sequence] += 1);
    }

    /// What the step has come to for which drafts were chosen last.
    pub fn account(&mut self, cost: &StepCost, passed: &Passed) {
        let Some(without) = cost.seconds(passed.num_sequences) else { return };
        let Passed { num_sequences, num_tokens, step, making, expected_making } = *passed;
        let worth = num_tokens as f64 / num_sequences.max(1) as f64 * without;
        let lost = step + expected_making - worth;
        let (mut of_trials, mut of_useful) = (0.0, 0.0);
        self.trial_paid = false;
        match std::mem::take(&mut self.taken) {
            Taken::None => {}
            Taken::Useful => of_useful = lost,
            Taken::Trial => {
                of_trials = step + making - worth;
                self.trial_paid = lost < 0.0;
            }
        }
        let seconds = step + making;
        self.trials.pass(seconds, of_trials, without);
        self.useful.pass(seconds, of_useful, without);
    }

    /// The best number of drafts, at least one if there are any, and tokens a second as a multiple of those without.
    fn most_useful(
        &self,
        num_sequences: usize,
        cost: &StepCost,
        drafting: &dyn Fn(usize) -> f64,
    ) -> (usize, f64) {
        let Some(without) = cost.seconds(num_sequences) else { return (0, 0.0) };
        let rate_without = num_sequences as f64 / without;
        let most_rows = MOST_GROWTH * cost.most_rows().max(num_sequences).max(4);
        let (mut best, mut tokens, mut deepest) = ((0, 0.0), num_sequences as f64, 0);
        for (index, offer) in self.offers.iter().enumerate() {
            tokens += offer.chance;
            deepest = deepest.max(offer.position);
            let num_drafts = index + 1;
            if num_sequences + num_drafts > most_rows {
                break;
            }
            let seconds = cost.seconds(num_sequences + num_drafts).unwrap_or(without);
            let gain = tokens / (seconds + drafting(deepest)) / rate_without;
            if gain > best.1 {
                best = (num_drafts, gain);
            }
        }
        best
    }

    fn take_or_try(
        &mut self,
        (most_useful, gain): (usize, f64),
        num_measured: u32,
        takes_time: bool,
    ) -> Taken {
        if most_useful == 0 || num_measured == 0 && gain < LEAST_GAIN {
            return Taken::None;
        }
        if gain >= LEAST_GAIN {
            if !self.useful.has_some() {
                return Taken::None;
            }
            self.steps_without = 0;
            self.steps_with += 1;
            let is_trial = num_measured < FIRST_STEPS || self.steps_with > TRIAL_INTERVAL;
            self.steps_with = if is_trial { 0 } else { self.steps_with };
            return if is_trial { Taken::None } else { Taken::Useful };
        }
        self.steps_with = 0;
        self.steps_without += u32::from(takes_time || gain >= LEAST_OF_TRIAL);
        let interval = TRIAL_INTERVAL.min(FIRST_TRIAL << self.num_trials.min(8));
        let is_due = self.steps_without > interval && self.trials.has_some();
        if !is_due && !self.trial_paid {
            return Taken::None;
        }
        self.num_trials += u32::from(is_due);
        self.steps_without = 0;
        Taken::Trial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which a step of n rows takes `seconds(n)`.
    fn machine(seconds: fn(usize) -> f64) -> StepCost {
        let mut cost = StepCost::default();
        for rows in 1..=300 {
            (0..FIRST_STEPS).for_each(|_| cost.record(rows, seconds(rows)));
        }
        cost
    }

    fn choose(cost: &StepCost, chances: &[Vec<f64>]) -> Vec<usize> {
        choose_dear(cost, chances, &|_| 0.0)
    }

    fn choose_dear(
        cost: &StepCost,
        chances: &[Vec<f64>],
        drafting: &dyn Fn(usize) -> f64,
    ) -> Vec<usize> {
        let mut choice = Choice::default();
        for (sequence, chances) in chances.iter().enumerate() {
            let chances = chances.iter().enumerate();
            chances.for_each(|(index, &chance)| choice.offer(sequence, index + 1, chance));
        }
        choice.choose(chances.len(), cost, drafting);
        (0..chances.len()).map(|sequence| choice.num_chosen(sequence)).collect()
    }

    #[test]
    fn rows_that_cost_nothing_are_all_taken_and_dear_ones_none() {
        let chances = vec![vec![0.6, 0.4, 0.1], vec![0.9, 0.8], vec![]];
        assert_eq!(choose(&machine(|_| 1.0), &chances), [3, 2, 0]);
        assert_eq!(choose(&machine(|rows| rows as f64), &chances), [0, 0, 0]);
        // Where a row costs a fifth of the step, only likely ones pay.
        assert_eq!(choose(&machine(|rows| 2.0 + 0.5 * rows as f64), &chances), [1, 2, 0]);
    }

    #[test]
    fn the_time_to_make_drafts_counts() {
        let (cost, chances) = (machine(|_| 1.0), vec![vec![0.9, 0.8, 0.1], vec![0.7, 0.1]]);
        let dear = |position: usize| 0.3 * position as f64;
        assert_eq!(choose_dear(&cost, &chances, &dear), [2, 1]);
        assert_eq!(choose_dear(&cost, &chances, &|_| 2.0), [0, 0]);
    }

    #[test]
    fn a_full_machine_takes_none() {
        // Memory bounds small steps, arithmetic large ones.
        let cost = machine(|rows| if rows < 16 { 1.0 } else { rows as f64 / 16.0 });
        let chances = |users: usize| vec![vec![0.7, 0.5]; users];
        assert_eq!(choose(&cost, &chances(2)), [2, 2]);
        assert_eq!(choose(&cost, &chances(32)), [0; 32]);
    }

    /// The drafts of each of so many steps of a sequence that is offered one. `is_right`: whether it is, by the number of drafts before.
    fn taken_in(
        num_steps: usize,
        (cost, making): (&StepCost, [f64; 2]),
        chance: &dyn Fn(usize) -> f64,
        is_right: fn(usize) -> bool,
    ) -> Vec<usize> {
        let (mut choice, mut num_drafts) = (Choice::default(), 0);
        let step = |_| {
            choice.clear();
            choice.offer(0, 1, chance(num_drafts));
            choice.choose(1, cost, &|position| making[0] * position as f64);
            let taken = choice.num_chosen(0);
            let passed = Passed {
                num_sequences: 1,
                num_tokens: 1 + usize::from(taken > 0 && is_right(num_drafts)),
                step: cost.seconds(1 + taken).unwrap_or_default(),
                making: if taken > 0 { making[1] } else { 0.0 },
                expected_making: if taken > 0 { making[0] } else { 0.0 },
            };
            num_drafts += taken;
            choice.account(cost, &passed);
            taken
        };
        (0..num_steps).map(step).collect()
    }

    #[test]
    fn both_ways_are_tried_again_now_and_then() {
        // Drafts after 5, 14, 31, 64, 129 and 194 steps.
        for (chance, usual, expected) in [(0.9, 1, 3), (0.2, 0, 6)] {
            let cost = machine(|rows| 3.0 + rows as f64);
            let num_steps = 4 * TRIAL_INTERVAL as usize;
            let is_right: fn(usize) -> bool = if usual == 1 { |_| true } else { |_| false };
            let taken = taken_in(num_steps, (&cost, [0.0; 2]), &|_| chance, is_right);
            let num_unusual = taken.iter().filter(|&&taken| taken != usual).count();
            assert_eq!(num_unusual, expected, "{taken:?}");
        }
    }

    #[test]
    fn drafts_that_only_promise_to_pay_are_soon_given_up() {
        let cost = machine(|rows| 3.0 + rows as f64);
        let taken = taken_in(10_000, (&cost, [0.0; 2]), &|_| 0.9, |_| false);
        let num_taken: usize = taken.iter().sum();
        // Each loses a quarter of a step: 64 of the first 16 steps that may be lost, and one step in a hundred after that.
        assert!((64..480).contains(&num_taken), "{num_taken}");
    }

    #[test]
    fn trials_may_take_a_small_share_of_the_time() {
        // To catch up takes ten steps.
        let cost = machine(|rows| 3.0 + rows as f64);
        let taken = taken_in(20_000, (&cost, [1.0, 40.0]), &|_| 0.3, |_| false);
        let num_taken: usize = taken.iter().sum();
        assert!((15..25).contains(&num_taken), "{num_taken}");
    }

    #[test]
    fn a_trial_that_pays_is_gone_on_with() {
        let cost = machine(|rows| 3.0 + rows as f64);
        let chance = |num_drafts: usize| if num_drafts < 3 { 0.3 } else { 0.9 };
        let taken = taken_in(1000, (&cost, [1.0, 40.0]), &chance, |_| true);
        let first = taken.iter().position(|&taken| taken > 0).expect("it is tried");
        assert_eq!(taken[first..first + 50], [1; 50]);
    }
}
