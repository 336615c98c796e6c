//! What users want of a request, and how many get it.

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

/// Upper bounds in milliseconds; a request is good when it keeps all of them. Names are those of vLLM's `--goodput`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Objectives {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpot: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e2el: Option<f64>,
}

impl Objectives {
    /// From "ttft:200", "tpot:50", "e2el:5000".
    pub fn parse(texts: &[String]) -> anyhow::Result<Option<Self>> {
        let mut objectives = Self::default();
        for text in texts {
            let (name, bound) =
                text.split_once(':').with_context(|| format!("--goodput {text}: want NAME:MS"))?;
            let bound: f64 = bound.parse().with_context(|| format!("--goodput {text}"))?;
            ensure!(
                bound > 0.0 && bound.is_finite(),
                "--goodput {text}: want milliseconds above 0"
            );
            match name {
                "ttft" => objectives.ttft = Some(bound),
                "tpot" => objectives.tpot = Some(bound),
                "e2el" | "e2e" => objectives.e2el = Some(bound),
                _ => bail!("--goodput {text}: want ttft, tpot or e2el"),
            }
        }
        Ok((!texts.is_empty()).then_some(objectives))
    }

    /// Which of them a request misses, times in milliseconds. A single token has no TPOT: as in vLLM it counts as 0.
    pub fn missed(&self, ttft: f64, tpot: Option<f64>, e2el: f64) -> [bool; 3] {
        let misses = |bound: Option<f64>, time: f64| bound.is_some_and(|bound| time > bound);
        [misses(self.ttft, ttft), misses(self.tpot, tpot.unwrap_or(0.0)), misses(self.e2el, e2el)]
    }

    /// "TTFT ≤ 200 ms, TPOT ≤ 50 ms".
    pub fn words(&self) -> String {
        let bounds = [("TTFT", self.ttft), ("TPOT", self.tpot), ("E2E", self.e2el)];
        let words =
            bounds.iter().filter_map(|(name, bound)| bound.map(|ms| format!("{name} ≤ {ms} ms")));
        words.collect::<Vec<_>>().join(", ")
    }
}

/// How many requests kept the objectives. Failed requests keep none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Goodput {
    /// Good requests over the time of the run.
    pub requests_per_second: f64,
    /// Good requests of all.
    pub share: f64,
    /// Answered requests that missed TTFT, TPOT, E2E; one may miss several.
    pub missed: [usize; 3],
}

impl Goodput {
    /// The objective that most requests missed.
    pub fn most_missed(&self) -> Option<&'static str> {
        let names = ["TTFT", "TPOT", "E2E"].into_iter().zip(self.missed);
        names.filter(|&(_, count)| count > 0).max_by_key(|&(_, count)| count).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_parsed_and_kept() {
        let parse = |texts: &[&str]| {
            Objectives::parse(&texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
        };
        let both = parse(&["ttft:200", "tpot:50"]).expect("two").expect("two");
        assert_eq!(both.words(), "TTFT ≤ 200 ms, TPOT ≤ 50 ms");
        assert_eq!(both.missed(200.0, None, 1e9), [false; 3]);
        assert_eq!(both.missed(200.1, Some(51.0), 0.0), [true, true, false]);
        assert_eq!(parse(&[]).expect("none"), None);
        for broken in ["ttft", "ttft:x", "itl:3", "ttft:-1", "ttft:NaN"] {
            assert!(parse(&[broken]).is_err(), "{broken}");
        }
    }
}
