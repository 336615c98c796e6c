//! A gate against regressions: this run beside the JSON of an earlier one.

use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::compare::QUANTITIES;
use super::lag::Validity;
use super::measures::{Level, Load, mean_of};

/// Largest file that is read.
const MAX_BYTES: u64 = 64 << 20;

/// One quantity at one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    pub quantity: String,
    pub load: Load,
    pub then: f64,
    pub now: f64,
    /// Now over then.
    pub ratio: f64,
    /// How much worse it may be; twice the tolerance for 99th percentiles.
    pub allowed: f64,
    pub is_worse: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    pub file: String,
    pub checks: Vec<Check>,
}

/// What is read of an earlier report.
#[derive(Deserialize)]
struct Earlier {
    settings: Vec<(String, String)>,
    levels: Vec<Level>,
}

impl Gate {
    /// Holds the levels of this run against those of `path` at equal loads. `settings` must be those of then.
    pub fn check(
        path: &Path,
        settings: &[(String, String)],
        levels: &[Level],
        tolerance: f64,
    ) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        let size = std::fs::metadata(path).with_context(|| format!("--baseline {name}"))?.len();
        ensure!(size <= MAX_BYTES, "--baseline {name} has {size} bytes: no report of quire-bench");
        let text = std::fs::read_to_string(path).with_context(|| format!("--baseline {name}"))?;
        let earlier: Earlier = serde_json::from_str(&text)
            .with_context(|| format!("--baseline {name}: no JSON of quire-bench"))?;
        for (setting, then) in &earlier.settings {
            let now =
                settings.iter().find(|(name, _)| name == setting).map(|(_, now)| now.as_str());
            ensure!(
                now == Some(then.as_str()),
                "--baseline {name} was measured with {setting} {then}, this run has {}",
                now.unwrap_or("none")
            );
        }
        let is_invalid = earlier.levels.iter().any(|level| level.validity == Validity::Invalid);
        ensure!(!is_invalid, "--baseline {name} is of an invalid run");
        let checks = checks(&earlier.levels, levels, tolerance);
        ensure!(!checks.is_empty(), "--baseline {name} has no load that this run has");
        Ok(Self { file: name, checks })
    }

    pub fn is_passed(&self) -> bool {
        !self.checks.iter().any(|check| check.is_worse)
    }

    pub fn headline(&self) -> String {
        let worse: Vec<String> = self
            .checks
            .iter()
            .filter(|check| check.is_worse)
            .map(|check| {
                format!(
                    "{} at {} is {:.2}× the baseline's",
                    check.quantity,
                    check.load.words(),
                    check.ratio
                )
            })
            .collect();
        if worse.is_empty() {
            "No regression against the baseline".to_owned()
        } else {
            format!("Regression: {}", worse.join("; "))
        }
    }
}

fn checks(then: &[Level], now: &[Level], tolerance: f64) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut seen: Vec<Load> = Vec::new();
    for load in now.iter().map(|level| level.load) {
        let of = |levels: &'_ [Level]| -> Vec<Level> {
            levels.iter().filter(|level| level.load == load).cloned().collect()
        };
        let (before, after) = (of(then), of(now));
        if seen.contains(&load) || before.is_empty() {
            continue;
        }
        seen.push(load);
        let (before, after): (Vec<&Level>, Vec<&Level>) =
            (before.iter().collect(), after.iter().collect());
        for quantity in &QUANTITIES {
            let (then, now) = (mean_of(&before, quantity.of), mean_of(&after, quantity.of));
            let ratio = if then > 0.0 { now / then } else { 1.0 };
            let allowed = tolerance * if quantity.is_tail { 2.0 } else { 1.0 };
            let is_worse =
                if quantity.is_more_better { ratio < 1.0 - allowed } else { ratio > 1.0 + allowed };
            checks.push(Check {
                quantity: quantity.name.to_owned(),
                load,
                then,
                now,
                ratio,
                allowed,
                is_worse,
            });
        }
        let failed = |levels: &[&Level]| {
            mean_of(levels, |level| level.failures as f64 / level.requests.max(1) as f64)
        };
        let (then, now) = (failed(&before), failed(&after));
        let ratio = if then > 0.0 { now / then } else { 1.0 + now };
        checks.push(Check {
            quantity: "failed share".to_owned(),
            load,
            then,
            now,
            ratio,
            allowed: 0.0,
            is_worse: now > then,
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::compare::tests::level;

    #[test]
    fn what_is_worse_than_allowed_is_a_regression() {
        let worse = |then: &Level, now: &Level| -> Vec<String> {
            let checks = checks(std::slice::from_ref(then), std::slice::from_ref(now), 0.1);
            checks.into_iter().filter(|check| check.is_worse).map(|check| check.quantity).collect()
        };
        let then = level("a", 100.0);
        assert_eq!(worse(&then, &level("another name", 91.0)), Vec::<String>::new());
        assert_eq!(worse(&then, &level("a", 89.0)), ["output tokens/s"]);
        let mut slow = [then.clone(), then.clone()];
        slow[0].ttft.p99 = 10.0;
        slow[1].ttft.p99 = 11.9;
        assert!(worse(&slow[0], &slow[1]).is_empty());
        slow[1].ttft.p99 = 12.1;
        assert_eq!(worse(&slow[0], &slow[1]), ["TTFT p99"]);
        let failing = Level { failures: 1, ..then.clone() };
        assert_eq!(worse(&then, &failing), ["failed share"]);
        assert!(checks(&[then], &[Level { load: Load::default(), ..failing }], 0.1).is_empty());
    }
}
