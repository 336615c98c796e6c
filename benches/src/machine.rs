//! The limits of this machine, measured in the run that reports shares of them.

use std::fs;
use std::hint::black_box;
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use quire_kernels::cpu::limits::{Arithmetic, multiply_add, read};
use serde::Serialize;

use crate::report::Table;

/// Bytes that the bandwidth loops go through: far more than any cache holds.
const MEMORY_BYTES: usize = 512 << 20;
/// The best of this many rounds is the limit: whatever disturbs a round makes it slower.
const ROUNDS: usize = 12;
/// Time of one round of arithmetic, long against starting the threads.
const ARITHMETIC_ROUND: Duration = Duration::from_millis(30);

/// A machine and what it can do at most, with `threads` threads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MachineLimits {
    pub cpu: String,
    pub threads: usize,
    /// Reading 512 MiB, GB/s.
    pub read_gb_s: f64,
    /// Copying 256 MiB, bytes read and written, GB/s.
    pub copy_gb_s: f64,
    /// A multiply-add counts two, 10⁹/s.
    pub float32_gop_s: f64,
    /// `None`: the machine has no instruction for it.
    pub bfloat16_gop_s: Option<f64>,
    pub int8_gop_s: Option<f64>,
}

impl MachineLimits {
    /// Takes about a second.
    pub fn measure(threads: usize) -> Self {
        let mut memory = vec![1_u64; MEMORY_BYTES / 8];
        let read_gb_s = best(|| read_bandwidth(&memory, threads));
        let copy_gb_s = best(|| copy_bandwidth(&mut memory, threads));
        let peak = |arithmetic| peak(arithmetic, threads);
        Self {
            cpu: cpu_name(),
            threads,
            read_gb_s,
            copy_gb_s,
            float32_gop_s: peak(Arithmetic::Float32).expect("every machine multiplies floats"),
            bfloat16_gop_s: peak(Arithmetic::Bfloat16),
            int8_gop_s: peak(Arithmetic::Int8),
        }
    }

    /// The larger of each figure: two measurements of one machine, before and after a run.
    pub fn or_better(self, other: &Self) -> Self {
        let larger = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a.max(b));
        Self {
            read_gb_s: self.read_gb_s.max(other.read_gb_s),
            copy_gb_s: self.copy_gb_s.max(other.copy_gb_s),
            float32_gop_s: self.float32_gop_s.max(other.float32_gop_s),
            bfloat16_gop_s: larger(self.bfloat16_gop_s, other.bfloat16_gop_s),
            int8_gop_s: larger(self.int8_gop_s, other.int8_gop_s),
            ..self
        }
    }

    /// 10⁹ operations a second; where the machine has no such instruction, those of float32.
    pub fn peak_gop_s(&self, arithmetic: Arithmetic) -> f64 {
        let peak = match arithmetic {
            Arithmetic::Float32 => None,
            Arithmetic::Bfloat16 => self.bfloat16_gop_s,
            Arithmetic::Int8 => self.int8_gop_s,
        };
        peak.unwrap_or(self.float32_gop_s)
    }

    pub fn table(&self) -> Table {
        let mut table = Table::new(&["limit", "measured"]).with_text_columns(2);
        let gop_s = |value: Option<f64>| {
            value.map_or_else(|| "no instruction".to_owned(), |value| format!("{value:.0} Gop/s"))
        };
        table.row(["machine".into(), format!("{}, {} threads", self.cpu, self.threads)]);
        table.row(["read".into(), format!("{:.1} GB/s", self.read_gb_s)]);
        table.row(["copy (read + written)".into(), format!("{:.1} GB/s", self.copy_gb_s)]);
        table.row(["float32".into(), gop_s(Some(self.float32_gop_s))]);
        table.row(["bfloat16".into(), gop_s(self.bfloat16_gop_s)]);
        table.row(["int8".into(), gop_s(self.int8_gop_s)]);
        table
    }
}

fn best(mut measure: impl FnMut() -> f64) -> f64 {
    (0..ROUNDS).map(|_| measure()).fold(0.0, f64::max)
}

fn read_bandwidth(memory: &[u64], threads: usize) -> f64 {
    let share = memory.len() / threads;
    let elapsed = on_all_threads(threads, |thread| {
        black_box(read(&memory[thread * share..][..share]));
    });
    (8 * share * threads) as f64 / elapsed.as_secs_f64() / 1e9
}

/// Copies the first half of `memory` to the second.
fn copy_bandwidth(memory: &mut [u64], threads: usize) -> f64 {
    let (from, to) = memory.split_at_mut(memory.len() / 2);
    let share = from.len() / threads;
    let targets: Vec<_> = to.chunks_exact_mut(share).take(threads).map(Mutex::new).collect();
    let elapsed = on_all_threads(threads, |thread| {
        let mut target = targets[thread].lock().expect("no other thread has it");
        target.copy_from_slice(&from[thread * share..][..share]);
    });
    (2 * 8 * share * threads) as f64 / elapsed.as_secs_f64() / 1e9
}

fn peak(arithmetic: Arithmetic, threads: usize) -> Option<f64> {
    let mut num_rounds = 1 << 12;
    let time = |num_rounds| {
        on_all_threads(threads, |_| {
            black_box(multiply_add(arithmetic, num_rounds));
        })
    };
    let operations = multiply_add(arithmetic, 1)? * threads as u64;
    while time(num_rounds) < ARITHMETIC_ROUND {
        num_rounds *= 2;
    }
    let gop_s = || (num_rounds * operations) as f64 / time(num_rounds).as_secs_f64() / 1e9;
    Some(best(gop_s))
}

/// Runs `job(thread)` on `threads` threads that start together; the time until the last is done.
fn on_all_threads(threads: usize, job: impl Fn(usize) + Sync) -> Duration {
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let (barrier, job) = (&barrier, &job);
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    job(thread);
                    (start, Instant::now())
                })
            })
            .collect();
        barrier.wait();
        let times: Vec<_> =
            workers.into_iter().map(|worker| worker.join().expect("a loop ends")).collect();
        let start = times.iter().map(|&(start, _)| start).min().expect("a thread");
        let end = times.iter().map(|&(_, end)| end).max().expect("a thread");
        end - start
    })
}

/// As the operating system calls it.
fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.unwrap_or(std::env::consts::ARCH).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(read_gb_s: f64, int8_gop_s: Option<f64>) -> MachineLimits {
        MachineLimits {
            cpu: "test".into(),
            threads: 1,
            read_gb_s,
            copy_gb_s: 1.0,
            float32_gop_s: 10.0,
            bfloat16_gop_s: None,
            int8_gop_s,
        }
    }

    #[test]
    fn the_better_of_two_measurements_counts() {
        let merged = limits(3.0, Some(5.0)).or_better(&limits(2.0, Some(7.0)));
        assert_eq!(merged, limits(3.0, Some(7.0)));
    }

    #[test]
    fn missing_instructions_fall_back_to_float32() {
        let limits = limits(1.0, Some(40.0));
        assert_eq!(limits.peak_gop_s(Arithmetic::Int8), 40.0);
        assert_eq!(limits.peak_gop_s(Arithmetic::Bfloat16), 10.0);
    }

    #[test]
    fn all_threads_run_and_are_waited_for() {
        let threads = Mutex::new(Vec::new());
        on_all_threads(3, |thread| threads.lock().expect("not poisoned").push(thread));
        let mut threads = threads.into_inner().expect("not poisoned");
        threads.sort_unstable();
        assert_eq!(threads, [0, 1, 2]);
    }
}
