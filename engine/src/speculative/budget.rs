//! What drafts may lose: a small share of the time, whatever was expected of them.

/// Drafts may lose so much of the time that passes.
const SHARE: f64 = 0.01;
/// At most so many steps are saved up, and as many may be lost at first, while little is known.
const MOST_STEPS: f64 = 16.0;
/// A loss counts as no more than so many steps, so that one long text to catch up with does not end all trials.
const MOST_LOST_STEPS: f64 = 64.0;

/// Seconds that may still be lost.
#[derive(Default)]
pub struct Budget {
    /// `None`: nothing was lost yet.
    seconds: Option<f64>,
}

impl Budget {
    pub fn has_some(&self) -> bool {
        self.seconds.is_none_or(|seconds| seconds >= 0.0)
    }

    /// Time passed, and of it so much was lost (gained, if negative). `step`: seconds of a step without drafts.
    pub fn pass(&mut self, seconds: f64, lost: f64, step: f64) {
        let before = self.seconds.unwrap_or(MOST_STEPS * step);
        let after = before + SHARE * seconds - lost.min(MOST_LOST_STEPS * step);
        self.seconds = Some(after.min(MOST_STEPS * step));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_stay_a_small_share_of_the_time() {
        let mut budget = Budget::default();
        let (mut lost, mut passed) = (0.0, 0.0);
        for _ in 0..100_000 {
            let own = if budget.has_some() { 0.7 } else { 0.0 };
            budget.pass(1.0 + own, own, 1.0);
            lost += own;
            passed += 1.0 + own;
        }
        let most = MOST_STEPS + SHARE * passed + 1.0;
        assert!((SHARE * passed..most).contains(&lost), "{lost} of {passed}");
    }

    #[test]
    fn gains_pay_for_losses_but_are_not_hoarded() {
        let mut budget = Budget::default();
        (0..1000).for_each(|_| budget.pass(1.0, -2.0, 1.0));
        (0..15).for_each(|_| budget.pass(1.0, 1.0, 1.0));
        assert!(budget.has_some());
        (0..3).for_each(|_| budget.pass(1.0, 1.0, 1.0));
        assert!(!budget.has_some());
        budget.pass(1.0, 1e6, 1.0);
        (0..6600).for_each(|_| budget.pass(1.0, 0.0, 1.0));
        assert!(budget.has_some(), "one loss is never forever");
    }
}
