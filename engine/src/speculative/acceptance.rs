//! How often drafts are right: for each amount of evidence, over all sequences and for each alone.

use quire_scheduler::TokenId;

use super::Guess;

/// Classes of evidence: 1, 2, 3, 4 to 5, 6 to 8, 9 to 16, more.
const NUM_CLASSES: usize = 7;
/// The share that is right before anything was counted.
const PRIOR: [f64; NUM_CLASSES] = [0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9];
/// A count weighs this much after another one: a sequence changes its subject, all of them their mixture.
const KEPT_OF_SEQUENCE: f64 = 0.9;
const KEPT_OF_ALL: f64 = 0.995;
/// What is known of all counts as so many drafts of a sequence.
const WEIGHT_OF_ALL: f64 = 3.0;

/// Drafts of one class.
#[derive(Clone, Copy, Default)]
struct Count {
    right: f64,
    total: f64,
}

impl Count {
    fn add(&mut self, is_right: bool, kept: f64) {
        self.right = self.right * kept + f64::from(u8::from(is_right));
        self.total = self.total * kept + 1.0;
    }

    /// The share that is right, where `expected` counts as `weight` drafts.
    fn share(&self, expected: f64, weight: f64) -> f64 {
        (self.right + expected * weight) / (self.total + weight)
    }
}

/// What one sequence's drafts came to.
#[derive(Default)]
pub struct Counts([Count; NUM_CLASSES]);

/// What all came to.
#[derive(Default)]
pub struct Acceptance {
    all: Counts,
    /// Drafts are trees, whose nodes come by how likely they are: each is right or not by itself.
    of_trees: bool,
}

impl Acceptance {
    pub fn new(of_trees: bool) -> Self {
        Self { all: Counts::default(), of_trees }
    }

    /// For each of so many drafts the probability that it and all before it are right.
    pub fn chances(
        &self,
        own: &Counts,
        evidence: u32,
        num_drafts: usize,
    ) -> impl Iterator<Item = f64> {
        let mut chance = 1.0;
        (0..num_drafts as u32).map(move |index| {
            let class = class(evidence + index);
            let of_all = self.all.0[class].share(PRIOR[class], WEIGHT_OF_ALL);
            let share = own.0[class].share(of_all, WEIGHT_OF_ALL);
            chance = if self.of_trees { share.min(chance) } else { share * chance };
            chance
        })
    }

    /// The tokens that came, as far as the drafts say anything of them: after a wrong one they do not. It does not matter
    /// whether the drafts were verified.
    pub fn learn(&mut self, own: &mut Counts, guess: &Guess, tokens: &[TokenId]) {
        let right = guess.drafts.right(tokens);
        for (index, is_right) in right[..guess.drafts.len()].iter().enumerate() {
            let Some(is_right) = *is_right else { continue };
            let class = class(guess.evidence + index as u32);
            self.all.0[class].add(is_right, KEPT_OF_ALL);
            own.0[class].add(is_right, KEPT_OF_SEQUENCE);
            if !is_right && !self.of_trees {
                return;
            }
        }
    }
}

fn class(evidence: u32) -> usize {
    match evidence {
        0..=3 => evidence.saturating_sub(1) as usize,
        4..=5 => 3,
        6..=8 => 4,
        9..=16 => 5,
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chances_follow_what_came() {
        let guess = Guess { drafts: [5, 6, 7].into_iter().collect(), evidence: 1 };
        let (mut acceptance, mut good, mut bad) = Default::default();
        let first = |acceptance: &Acceptance, own: &Counts| {
            acceptance.chances(own, 1, 3).next().expect("three drafts")
        };
        let before = first(&acceptance, &good);
        for _ in 0..30 {
            Acceptance::learn(&mut acceptance, &mut good, &guess, &[5, 6]);
            Acceptance::learn(&mut acceptance, &mut bad, &guess, &[9]);
        }
        assert!(first(&acceptance, &bad) < before && before < first(&acceptance, &good));
        assert!(first(&acceptance, &bad) < 0.2 && first(&acceptance, &good) > 0.8);
        // Nothing is known of the third draft, and each is less likely than the one before it.
        let chances: Vec<f64> = acceptance.chances(&good, 1, 3).collect();
        assert!(chances.is_sorted_by(|a, b| a > b), "{chances:?}");
        assert_eq!(good.0[class(3)].total, 0.0);
    }
}
