//! All that a run of quire-bench found: what its JSON holds, and what its verdict says.

use serde::Serialize;

use super::baseline::Gate;
use super::compare::Comparison;
use super::lag::Validity;
use super::measures::Level;
use super::objectives::Objectives;
use super::search::Search;
use crate::report::{Run, percent, three_digits};

/// Exit codes besides 0 and 1 (an error).
pub const REGRESSION: u8 = 3;
pub const INVALID: u8 = 4;

#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    pub run: Run,
    pub settings: Vec<(String, String)>,
    pub objectives: Option<Objectives>,
    pub goodput_share: f64,
    pub validity: Validity,
    pub is_interrupted: bool,
    pub levels: Vec<Level>,
    pub comparison: Option<Comparison>,
    pub searches: Vec<Search>,
    pub gate: Option<Gate>,
    pub gate_error: Option<String>,
}

/// How good the news is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Neutral,
    Bad,
}

impl Outcome {
    pub fn new(
        settings: Vec<(String, String)>,
        objectives: Option<Objectives>,
        levels: Vec<Level>,
    ) -> Self {
        let validity = levels.iter().map(|level| level.validity).max().unwrap_or(Validity::Valid);
        Self {
            run: Run::here(),
            settings,
            objectives,
            goodput_share: 0.99,
            validity,
            is_interrupted: false,
            levels,
            comparison: None,
            searches: Vec::new(),
            gate: None,
            gate_error: None,
        }
    }

    /// The level with the most tokens a second.
    pub fn best(&self) -> Option<&Level> {
        self.levels
            .iter()
            .max_by(|a, b| a.output_tokens_per_second.total_cmp(&b.output_tokens_per_second))
    }

    pub fn answered(&self) -> usize {
        self.levels.iter().map(|level| level.requests - level.failures).sum()
    }

    pub fn failures(&self) -> usize {
        self.levels.iter().map(|level| level.failures).sum()
    }

    /// The first thing a reader is told.
    pub fn headline(&self) -> (Tone, String) {
        let (tone, words) = self.news();
        (if self.validity == Validity::Invalid { Tone::Bad } else { tone }, words)
    }

    fn news(&self) -> (Tone, String) {
        if self.answered() == 0 {
            return (Tone::Bad, "Nothing was answered".to_owned());
        }
        if let Some(error) = &self.gate_error {
            return (Tone::Bad, format!("Not compared: {error}"));
        }
        if let Some(gate) = &self.gate {
            let tone = if gate.is_passed() { Tone::Good } else { Tone::Bad };
            return (tone, gate.headline());
        }
        if !self.searches.is_empty() {
            let tone = if self.searches.iter().all(|search| search.best.is_some()) {
                Tone::Good
            } else {
                Tone::Bad
            };
            let words = self.searches.iter().map(|search| match self.searches.len() {
                1 => search.headline(),
                _ => format!("{}: {}", search.target, search.headline()),
            });
            return (tone, words.collect::<Vec<_>>().join(". "));
        }
        if let Some(comparison) = &self.comparison {
            return (Tone::Neutral, comparison.headline());
        }
        self.level_headline()
    }

    fn level_headline(&self) -> (Tone, String) {
        let Some(best) = self.best() else { return (Tone::Bad, "Nothing was measured".to_owned()) };
        let words = format!(
            "{} tokens/s at {}, the first token after {} ms (median), {} ms (p99)",
            three_digits(best.output_tokens_per_second),
            best.load.words(),
            three_digits(best.ttft.p50),
            three_digits(best.ttft.p99),
        );
        match best.goodput {
            None => (Tone::Neutral, words),
            Some(goodput) => {
                let is_kept = goodput.share >= self.goodput_share;
                let share = percent(goodput.share);
                (
                    if is_kept { Tone::Good } else { Tone::Bad },
                    format!("{words}; {share} of the requests kept the objectives"),
                )
            }
        }
    }

    /// What a reader must know before believing any figure.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let late = |level: &Level| level.client.lag.p99.max(level.client.dispatch.p99);
        let latest = self.levels.iter().map(late).fold(0.0, f64::max);
        match self.validity {
            Validity::Invalid => warnings.push(format!(
                "INVALID: this client itself was up to {} ms late (p99). Its figures are not the server's. \
                 Load less, give it more processors (--threads), or run it on another machine.",
                three_digits(latest)
            )),
            Validity::Marked => warnings.push(format!(
                "This client itself was up to {} ms late (p99): short latencies are somewhat too long.",
                three_digits(latest)
            )),
            Validity::Valid => {}
        }
        if self.is_interrupted {
            warnings.push("Interrupted: what was not yet sent is missing.".to_owned());
        }
        if self.failures() > 0 {
            let requests: usize = self.levels.iter().map(|level| level.requests).sum();
            warnings.push(format!(
                "{} of {requests} requests failed. They are in no latency, and count against the objectives.",
                self.failures()
            ));
        }
        let by_chunks: usize = self.levels.iter().map(|level| level.counted_by_chunks).sum();
        if by_chunks > 0 {
            warnings.push(format!(
                "{by_chunks} answers came without usage: each of their chunks counts as one token."
            ));
        }
        let repeated: usize = self.levels.iter().map(|level| level.repeated).sum();
        if repeated > 0 {
            warnings.push(format!(
                "The file has fewer conversations than were held: {repeated} had been held before, and a prefix cache may have them."
            ));
        }
        warnings
    }

    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        let is_regression = self.gate.as_ref().is_some_and(|gate| !gate.is_passed());
        match () {
            () if self.answered() == 0 || self.gate_error.is_some() => 1,
            () if self.validity == Validity::Invalid => INVALID,
            () if is_regression => REGRESSION,
            () => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::compare::tests::level;

    #[test]
    fn a_late_client_is_told_first_and_ends_the_program_so() {
        let late = Level { validity: Validity::Invalid, ..level("a", 9.0) };
        let outcome = Outcome::new(Vec::new(), None, vec![level("a", 10.0), late]);
        assert_eq!((outcome.validity, outcome.exit_code()), (Validity::Invalid, INVALID));
        assert_eq!(outcome.headline().0, Tone::Bad);
        assert!(outcome.warnings()[0].starts_with("INVALID"), "{:?}", outcome.warnings());
    }
}
