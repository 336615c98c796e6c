//! The highest rate of requests at which enough of them keep the objectives: doubled until one misses, then halved between.

use serde::{Deserialize, Serialize};

use super::lag::Validity;
use super::measures::Level;

/// The search ends when the lowest rate that missed is so much above the highest that kept.
const RESOLUTION: f64 = 1.05;
/// So many probes may tell nothing before the search is given up.
const MAX_VOID: usize = 4;
/// Most probes.
const MAX_PROBES: usize = 24;

/// One rate that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    pub rate: f64,
    /// Share of the requests that kept all objectives.
    pub share: f64,
    /// Which objective was missed, or why it does not count; `None`: it kept them.
    pub missed: Option<String>,
    /// The client was too late to tell: it is tried again.
    pub is_void: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    pub target: String,
    /// Share of the requests that must keep all objectives.
    pub wanted_share: f64,
    pub probes: Vec<Probe>,
    /// Requests a second; it kept the objectives twice. `None`: no rate did.
    pub best: Option<f64>,
}

impl Search {
    pub fn new(target: &str, wanted_share: f64) -> Self {
        Self { target: target.to_owned(), wanted_share, probes: Vec::new(), best: None }
    }

    /// The next rate to try, beginning at `start`; `None`: the search is over, and `best` is set.
    pub fn next(&mut self, start: f64) -> Option<f64> {
        let told = || self.probes.iter().filter(|probe| !probe.is_void);
        let missed = told().filter(|probe| probe.missed.is_some());
        let lowest_missed = missed.map(|probe| probe.rate).reduce(f64::min);
        // A rate above one that missed was lucky.
        let kept = |probe: &&Probe| {
            probe.missed.is_none() && lowest_missed.is_none_or(|missed| probe.rate < missed)
        };
        let highest_kept = told().filter(kept).map(|probe| probe.rate).reduce(f64::max);
        let times = |rate: f64| told().filter(|probe| probe.rate == rate).count();
        let num_void = self.probes.iter().filter(|probe| probe.is_void).count();
        let has_ended = self.probes.len() >= MAX_PROBES || num_void >= MAX_VOID;
        let next = match (highest_kept, lowest_missed) {
            (None, None) => Some(start),
            (Some(kept), None) => Some(2.0 * kept),
            (None, Some(missed)) => (missed > start / 256.0).then_some(missed / 2.0),
            (Some(kept), Some(missed)) if missed / kept > RESOLUTION => {
                Some((kept * missed).sqrt())
            }
            // The answer is tried once more: the luckiest of many probes is likely to be the last.
            (Some(kept), Some(_)) => (times(kept) < 2).then_some(kept),
        };
        let next = next.filter(|_| !has_ended);
        if next.is_none() {
            self.best = highest_kept;
        }
        next
    }

    /// `allows_late`: a client that was too late spoils no probe.
    pub fn tell(&mut self, rate: f64, level: &Level, arrival_seconds: f64, allows_late: bool) {
        let share = level.goodput.map_or(0.0, |goodput| goodput.share);
        let is_void = level.validity == Validity::Invalid && !allows_late;
        let missed = if is_void {
            Some("the client was too late to tell".to_owned())
        } else if share < self.wanted_share {
            let most = level.goodput.and_then(|goodput| goodput.most_missed());
            Some(most.unwrap_or("failures").to_owned())
        } else {
            is_growing(level, arrival_seconds).then(|| "the queue grows".to_owned())
        };
        self.probes.push(Probe { rate, share, missed, is_void });
    }

    /// Whether the last probe told nothing.
    pub fn was_void(&self) -> bool {
        self.probes.last().is_some_and(|probe| probe.is_void)
    }

    pub fn headline(&self) -> String {
        let share = 100.0 * self.wanted_share;
        let Some(best) = self.best else {
            return format!("No rate kept the objectives for {share}% of the requests");
        };
        let above = self
            .probes
            .iter()
            .filter(|probe| probe.rate > best && probe.missed.is_some() && !probe.is_void);
        let next = above.min_by(|a, b| a.rate.total_cmp(&b.rate));
        let why = next.and_then(|probe| {
            Some(format!("; at {:.2} it misses: {}", probe.rate, probe.missed.as_ref()?))
        });
        format!(
            "{best:.2} requests/s keep the objectives for {share}% of the requests{}",
            why.unwrap_or_default()
        )
    }
}

/// Whether more and more requests were under way while they came: such a rate holds only because the run was short.
fn is_growing(level: &Level, arrival_seconds: f64) -> bool {
    let pieces = &level.timeline.pieces;
    let num = ((arrival_seconds / level.timeline.seconds.max(1e-9)) as usize).min(pieces.len());
    if num < 6 {
        return false;
    }
    let running = |pieces: &[super::timeline::Piece]| {
        pieces.iter().map(|piece| piece.running).sum::<f64>() / pieces.len() as f64
    };
    let (middle, last) =
        (running(&pieces[num / 3..2 * num / 3]), running(&pieces[2 * num / 3..num]));
    // Arrivals vary by the root of their number.
    last > 1.2 * middle + 2.0 * middle.sqrt() + 0.5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::compare::tests::level;
    use crate::harness::objectives::Goodput;
    use crate::harness::timeline::{Piece, Timeline};

    fn search(holds: impl Fn(f64, usize) -> bool) -> Search {
        let mut search = Search::new("a", 0.99);
        while let Some(rate) = search.next(1.0) {
            let share = if holds(rate, search.probes.len()) { 1.0 } else { 0.5 };
            let goodput = Goodput { share, missed: [5, 1, 0], ..Goodput::default() };
            search.tell(rate, &Level { goodput: Some(goodput), ..level("a", 1.0) }, 1.0, false);
        }
        search
    }

    #[test]
    fn the_limit_is_found_within_the_resolution() {
        for limit in [0.03, 0.9, 1.0, 37.0] {
            let found = search(|rate, _| rate <= limit).best.expect("some rate holds");
            assert!(found <= limit && found * RESOLUTION >= limit, "{found} of {limit}");
        }
        let none = search(|_, _| false);
        assert_eq!(none.best, None);
        assert!(none.headline().starts_with("No rate"), "{}", none.headline());
    }

    #[test]
    fn a_lucky_probe_is_not_the_answer() {
        // The first try of a rate near the limit succeeds by luck.
        let lucky = search(|rate, probes| rate <= 10.0 || (rate < 12.0 && probes < 8));
        let best = lucky.best.expect("some rate holds");
        assert!(best <= 10.0, "{best}: {:?}", lucky.probes);
        assert!(lucky.headline().contains("it misses: TTFT"), "{}", lucky.headline());
    }

    #[test]
    fn a_probe_that_tells_nothing_is_tried_again() {
        let mut search = Search::new("a", 0.99);
        let late = |is_late| Level {
            goodput: Some(Goodput { share: 1.0, ..Goodput::default() }),
            validity: if is_late { Validity::Invalid } else { Validity::Valid },
            ..level("a", 1.0)
        };
        search.tell(1.0, &late(true), 1.0, false);
        assert!(search.was_void() && search.next(1.0) == Some(1.0));
        search.tell(1.0, &late(true), 1.0, true);
        assert!(!search.was_void() && search.next(1.0) == Some(2.0));
        for _ in 1..MAX_VOID {
            search.tell(2.0, &late(true), 1.0, false);
        }
        assert_eq!((search.next(1.0), search.best), (None, Some(1.0)));
    }

    #[test]
    fn a_growing_queue_is_seen() {
        let with = |running: fn(usize) -> f64| {
            let pieces = (0..60).map(|index| Piece { running: running(index), ..Piece::default() });
            Level {
                timeline: Timeline { seconds: 0.5, pieces: pieces.collect() },
                ..level("a", 1.0)
            }
        };
        assert!(is_growing(&with(|index| index as f64), 30.0));
        assert!(!is_growing(&with(|index| 20.0 + (index % 5) as f64), 30.0));
    }
}
