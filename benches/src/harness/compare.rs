//! Two servers side by side: rounds A B A B …, each quantity as a ratio with an interval.

use serde::{Deserialize, Serialize};

use super::measures::{Level, Load, mean_of};
use crate::statistics::mean;

/// Two-sided 95% quantiles of Student's t for 1, 2, … degrees of freedom; beyond, those of 30.
const T_95: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
];

/// What a comparison, and a gate, look at.
pub struct Quantity {
    pub name: &'static str,
    pub unit: &'static str,
    pub is_more_better: bool,
    /// Of the slowest few requests: it varies more than the others.
    pub is_tail: bool,
    pub of: fn(&Level) -> f64,
}

pub const QUANTITIES: [Quantity; 9] = [
    Quantity::rate("output tokens/s", "tok/s", |level| level.output_tokens_per_second),
    Quantity::rate("requests/s", "req/s", |level| level.requests_per_second),
    Quantity::time("TTFT mean", false, |level| level.ttft.mean),
    Quantity::time("TTFT p99", true, |level| level.ttft.p99),
    Quantity::time("TPOT mean", false, |level| level.tpot.mean),
    Quantity::time("TPOT p99", true, |level| level.tpot.p99),
    Quantity::time("ITL p99", true, |level| level.itl.p99),
    Quantity::time("E2E mean", false, |level| level.e2e.mean),
    Quantity::time("E2E p99", true, |level| level.e2e.p99),
];

impl Quantity {
    const fn rate(name: &'static str, unit: &'static str, of: fn(&Level) -> f64) -> Self {
        Self { name, unit, is_more_better: true, is_tail: false, of }
    }

    const fn time(name: &'static str, is_tail: bool, of: fn(&Level) -> f64) -> Self {
        Self { name, unit: "ms", is_more_better: false, is_tail, of }
    }
}

/// What a ratio shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Winner {
    A,
    B,
    /// The interval holds 1, or there is none.
    NotShown,
}

/// B over A of one quantity at one load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    pub quantity: String,
    pub load: Load,
    /// Means over the rounds.
    pub a: f64,
    pub b: f64,
    /// Geometric mean of the rounds' ratios.
    pub ratio: f64,
    /// 95% interval; `None` of a single round.
    pub interval: Option<(f64, f64)>,
    pub winner: Winner,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub a: String,
    pub b: String,
    pub rounds: usize,
    pub ratios: Vec<Ratio>,
}

/// Compares two targets whose levels come in rounds: `levels` in the order they were measured.
pub fn compare(a: &str, b: &str, levels: &[Level]) -> Comparison {
    let mut loads: Vec<Load> = Vec::new();
    for level in levels {
        if !loads.contains(&level.load) {
            loads.push(level.load);
        }
    }
    let of = |name: &str, load: Load| -> Vec<&Level> {
        levels.iter().filter(|level| level.target == name && level.load == load).collect()
    };
    let mut ratios = Vec::new();
    for load in loads {
        let (of_a, of_b) = (of(a, load), of(b, load));
        ratios.extend(QUANTITIES.iter().map(|quantity| ratio(quantity, load, &of_a, &of_b)));
    }
    let rounds =
        ratios.first().map_or(0, |first| of(a, first.load).len().min(of(b, first.load).len()));
    Comparison { a: a.to_owned(), b: b.to_owned(), rounds, ratios }
}

fn ratio(quantity: &Quantity, load: Load, a: &[&Level], b: &[&Level]) -> Ratio {
    let pairs = a.iter().zip(b).map(|(a, b)| ((quantity.of)(a), (quantity.of)(b)));
    let logs: Vec<f64> =
        pairs.filter(|&(a, b)| a > 0.0 && b > 0.0).map(|(a, b)| (b / a).ln()).collect();
    let interval = interval(&logs);
    let is_b_more = match interval {
        Some((low, _)) if low > 1.0 => Some(true),
        Some((_, high)) if high < 1.0 => Some(false),
        _ => None,
    };
    Ratio {
        quantity: quantity.name.to_owned(),
        load,
        a: mean_of(a, quantity.of),
        b: mean_of(b, quantity.of),
        ratio: mean(&logs).exp(),
        interval,
        winner: match is_b_more {
            Some(is_more) if is_more == quantity.is_more_better => Winner::B,
            Some(_) => Winner::A,
            None => Winner::NotShown,
        },
    }
}

/// 95% interval of the geometric mean of ratios, from Student's t over the logarithms of the rounds' ratios: rounds are
/// independent, requests of a round are not.
fn interval(logs: &[f64]) -> Option<(f64, f64)> {
    let freedom = logs.len().checked_sub(1).filter(|&freedom| freedom > 0)?;
    let middle = mean(logs);
    let variance = logs.iter().map(|log| (log - middle).powi(2)).sum::<f64>() / freedom as f64;
    let half = T_95[freedom.min(T_95.len()) - 1] * (variance / logs.len() as f64).sqrt();
    Some(((middle - half).exp(), (middle + half).exp()))
}

impl Comparison {
    /// The last load: the heaviest, where loads go up.
    pub fn load(&self) -> Option<Load> {
        self.ratios.last().map(|ratio| ratio.load)
    }

    /// What it shows of the throughput of the heaviest load, in a sentence.
    pub fn headline(&self) -> String {
        let first = |ratio: &&Ratio| ratio.quantity == QUANTITIES[0].name;
        let Some(ratio) = self.ratios.iter().rfind(first) else {
            return "Nothing was compared.".to_owned();
        };
        let (a, b) = (&self.a, &self.b);
        let times = if ratio.ratio >= 1.0 { ratio.ratio } else { 1.0 / ratio.ratio };
        let share = 100.0 * (times - 1.0);
        let (more, less) = if ratio.ratio >= 1.0 { (b, a) } else { (a, b) };
        let load = ratio.load.words();
        match (ratio.winner, ratio.interval) {
            (Winner::NotShown, None) => {
                format!(
                    "{more} makes {share:.1}% more tokens/s than {less} at {load}; one round tells no interval"
                )
            }
            (Winner::NotShown, Some((low, high))) => {
                format!(
                    "No difference shown at {load}: {b} makes {:.3}× the tokens/s of {a} (95%: {low:.3} to {high:.3})",
                    ratio.ratio
                )
            }
            (_, Some((low, high))) => {
                let (low, high) =
                    if ratio.ratio >= 1.0 { (low, high) } else { (1.0 / high, 1.0 / low) };
                let (low, high) = (100.0 * (low - 1.0), 100.0 * (high - 1.0));
                format!(
                    "{more} makes {share:.1}% more tokens/s than {less} at {load} (95%: {low:.1} to {high:.1}%)"
                )
            }
            (_, None) => String::new(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::harness::runner::Run;

    /// A level that makes so many tokens a second.
    pub fn level(target: &str, rate: f64) -> Level {
        let run = Run { seconds: 1.0, peak_running: 1, ..Run::default() };
        let load = Load { users: Some(4), rate: None };
        Level {
            output_tokens_per_second: rate,
            requests: 10,
            ..Level::of(target, load, &run, None)
        }
    }

    #[test]
    fn a_steady_difference_is_shown_and_noise_is_not() {
        let rounds = |pairs: &[(f64, f64)]| {
            let levels: Vec<Level> =
                pairs.iter().flat_map(|&(a, b)| [level("a", a), level("b", b)]).collect();
            compare("a", "b", &levels)
        };
        let steady = rounds(&[(100.0, 110.0), (200.0, 221.0), (50.0, 54.5)]);
        let first = &steady.ratios[0];
        assert_eq!((first.winner, steady.rounds), (Winner::B, 3));
        assert!((first.ratio - 1.0983).abs() < 1e-3, "{first:?}");
        assert!(steady.headline().starts_with("b makes 9.8% more"), "{}", steady.headline());
        let noise = rounds(&[(100.0, 110.0), (110.0, 100.0), (105.0, 104.0)]);
        assert_eq!(noise.ratios[0].winner, Winner::NotShown);
        let single = rounds(&[(100.0, 50.0)]);
        assert_eq!((single.ratios[0].interval, single.ratios[0].winner), (None, Winner::NotShown));
        assert!(single.headline().starts_with("a makes 100.0% more"), "{}", single.headline());
    }

    #[test]
    fn the_interval_is_students() {
        // Mean 2, standard deviation 1, three values: half the interval is 4.303 / √3.
        let (low, high) = interval(&[1.0, 2.0, 3.0]).expect("three rounds");
        assert!((low.ln() - (2.0 - 4.303 / 3.0_f64.sqrt())).abs() < 1e-9);
        assert!((high.ln() - (2.0 + 4.303 / 3.0_f64.sqrt())).abs() < 1e-9);
        assert_eq!(interval(&[1.0]), None);
    }
}
