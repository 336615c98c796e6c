//! Which drafts a step verifies: as many as bring the most tokens a second, over all sequences of the step.

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
/// … drafts that take time only after so many: who makes them has to catch up first.
const DEAR_TRIAL_INTERVAL: u32 = 1024;
/// … where it is not much worse than that.
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
        let most_interval = if drafting(1) > 0.0 { DEAR_TRIAL_INTERVAL } else { TRIAL_INTERVAL };
        let num_measured = cost.num_measured(num_sequences);
        let num_taken = self.take_or_try(most_useful, gain, num_measured, most_interval);
        self.chosen.clear();
        self.chosen.resize(num_sequences, 0);
        self.offers[..num_taken].iter().for_each(|offer| self.chosen[offer.sequence] += 1);
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
        most_useful: usize,
        gain: f64,
        num_measured: u32,
        most_interval: u32,
    ) -> usize {
        if most_useful == 0 || num_measured == 0 && gain < LEAST_GAIN {
            return 0;
        }
        if gain >= LEAST_GAIN {
            self.steps_without = 0;
            self.steps_with += 1;
            let is_trial = num_measured < FIRST_STEPS || self.steps_with > TRIAL_INTERVAL;
            self.steps_with = if is_trial { 0 } else { self.steps_with };
            return if is_trial { 0 } else { most_useful };
        }
        self.steps_with = 0;
        self.steps_without += u32::from(gain >= LEAST_OF_TRIAL);
        let interval = most_interval.min(FIRST_TRIAL << self.num_trials.min(8));
        let is_trial = self.steps_without > interval;
        self.num_trials += u32::from(is_trial);
        self.steps_without = if is_trial { 0 } else { self.steps_without };
        if is_trial { most_useful } else { 0 }
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

    #[test]
    fn both_ways_are_tried_again_now_and_then() {
        // Drafts after 5, 14, 31, 64, 129 and 194 steps.
        for (chance, usual, expected) in [(0.9, 1, 3), (0.2, 0, 6)] {
            let cost = machine(|rows| 3.0 + rows as f64);
            let mut choice = Choice::default();
            let mut taken = Vec::new();
            for _ in 0..4 * TRIAL_INTERVAL {
                choice.clear();
                choice.offer(0, 1, chance);
                choice.choose(1, &cost, &|_| 0.0);
                taken.push(choice.num_chosen(0));
            }
            let num_unusual = taken.iter().filter(|&&taken| taken != usual).count();
            assert_eq!(num_unusual, expected, "{taken:?}");
        }
    }
}
