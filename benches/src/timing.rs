//! Times closures: warm-up, interleaved rounds, the median.

use std::time::{Duration, Instant};

use quire_kernels::cases::Work;
use quire_kernels::cpu::limits::Arithmetic;
use serde::Serialize;

use crate::machine::MachineLimits;
use crate::statistics::median;

/// Something to time.
pub struct Timed {
    pub op: String,
    pub name: String,
    pub work: Work,
    /// What the operations are made of.
    pub arithmetic: Arithmetic,
    pub run: Box<dyn FnMut()>,
}

/// How long to time.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub rounds: usize,
    /// Least time of one case in one round.
    pub round: Duration,
}

/// A measured case.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measurement {
    pub op: String,
    pub name: String,
    pub microseconds: f64,
    pub gb_s: f64,
    pub gop_s: f64,
    /// Which limit is nearer: "memory", "float32", "bfloat16", "int8".
    pub bound: &'static str,
    /// Share of that limit, 0 to about 1.
    pub share: f64,
}

/// Seconds a call of each case. The rounds of all cases are interleaved, so that a slow phase of the machine meets all.
pub fn time(cases: &mut [Timed], budget: Budget) -> Vec<f64> {
    let num_calls: Vec<u32> = cases.iter_mut().map(|case| warm_up(case, budget.round)).collect();
    let mut samples = vec![Vec::new(); cases.len()];
    for _ in 0..budget.rounds {
        for ((case, &num_calls), samples) in cases.iter_mut().zip(&num_calls).zip(&mut samples) {
            let start = Instant::now();
            (0..num_calls).for_each(|_| (case.run)());
            samples.push(start.elapsed().as_secs_f64() / f64::from(num_calls));
        }
    }
    samples.iter().map(|samples| median(samples)).collect()
}

/// Calls until the caches and clocks are warm; how many calls fill a round.
fn warm_up(case: &mut Timed, round: Duration) -> u32 {
    (case.run)();
    let start = Instant::now();
    let mut num_calls = 0_u32;
    while num_calls == 0 || start.elapsed() < round / 2 {
        (case.run)();
        num_calls += 1;
    }
    let call = start.elapsed().as_secs_f64() / f64::from(num_calls);
    (round.as_secs_f64() / call).ceil().clamp(1.0, 1e9) as u32
}

/// Shares of the limits of a case that takes `seconds`.
pub fn measurement(case: &Timed, seconds: f64, limits: &MachineLimits) -> Measurement {
    let gb_s = case.work.bytes as f64 / seconds / 1e9;
    let gop_s = case.work.operations as f64 / seconds / 1e9;
    let memory_share = gb_s / limits.read_gb_s;
    let arithmetic_share = gop_s / limits.peak_gop_s(case.arithmetic);
    let name = match case.arithmetic {
        Arithmetic::Float32 => "float32",
        Arithmetic::Bfloat16 => "bfloat16",
        Arithmetic::Int8 => "int8",
    };
    Measurement {
        op: case.op.clone(),
        name: case.name.clone(),
        microseconds: seconds * 1e6,
        gb_s,
        gop_s,
        bound: if memory_share >= arithmetic_share { "memory" } else { name },
        share: memory_share.max(arithmetic_share),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    fn case(bytes: u64, operations: u64, run: impl FnMut() + 'static) -> Timed {
        Timed {
            op: "op".into(),
            name: "name".into(),
            work: Work { bytes, operations },
            arithmetic: Arithmetic::Int8,
            run: Box::new(run),
        }
    }

    #[test]
    fn every_round_calls_every_case() {
        let calls = Rc::new(Cell::new(0));
        let counter = Rc::clone(&calls);
        let mut cases = [case(1, 1, move || counter.set(counter.get() + 1))];
        let budget = Budget { rounds: 3, round: Duration::ZERO };
        let seconds = time(&mut cases, budget);
        // Two calls to warm up, one in each round.
        assert_eq!((seconds.len(), calls.get()), (1, 5));
    }

    #[test]
    fn the_nearer_limit_is_the_bound() {
        let limits = MachineLimits {
            cpu: String::new(),
            threads: 1,
            read_gb_s: 10.0,
            copy_gb_s: 10.0,
            float32_gop_s: 50.0,
            bfloat16_gop_s: None,
            int8_gop_s: Some(100.0),
        };
        let measured = measurement(&case(5_000_000_000, 20_000_000_000, || ()), 1.0, &limits);
        assert_eq!((measured.bound, measured.share), ("memory", 0.5));
        let measured = measurement(&case(1_000_000_000, 80_000_000_000, || ()), 1.0, &limits);
        assert_eq!((measured.bound, measured.share), ("int8", 0.8));
    }
}
