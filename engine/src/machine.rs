//! What this machine offers: memory that is free, cores that compute and their instruction sets.

use std::collections::BTreeSet;
use std::fs;

use quire_kernels::cpu::SimdLevel;

/// Memory and cores, as far as this process may use them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Bytes free for weights, workspace and KV cache.
    pub available_memory: u64,
    /// Physical cores this process may run on.
    pub num_cores: usize,
    /// Narrowest first; every machine has the portable one.
    pub simd_levels: Vec<SimdLevel>,
}

impl Machine {
    /// Reads the operating system's figures; a cgroup's limit counts as the machine's.
    pub fn detect() -> Self {
        Self {
            available_memory: available_memory(),
            num_cores: num_cores(),
            simd_levels: SimdLevel::available(),
        }
    }
}

fn available_memory() -> u64 {
    let free = fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_available(&text));
    let free = free.unwrap_or(u64::MAX);
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limit = number("/sys/fs/cgroup/memory.max");
    let used = number("/sys/fs/cgroup/memory.current").unwrap_or(0);
    limit.map_or(free, |limit| free.min(limit.saturating_sub(used)))
}

fn meminfo_available(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
}

fn num_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    // One compute thread a physical core: two hardware threads of a core share its multipliers.
    let physical: BTreeSet<String> = (0..allowed)
        .filter_map(|cpu| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            fs::read_to_string(path).ok()
        })
        .collect();
    if physical.is_empty() { allowed } else { physical.len().min(allowed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read_in_kibibytes() {
        let text = "MemTotal:  100 kB\nMemAvailable:    64 kB\n";
        assert_eq!(meminfo_available(text), Some(65536));
        assert_eq!(meminfo_available("MemFree: 1 kB"), None);
    }

    #[test]
    fn this_machine_has_a_core_and_memory() {
        let machine = Machine::detect();
        assert!(machine.num_cores >= 1 && machine.available_memory > 0);
    }
}
