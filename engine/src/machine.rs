//! What this machine offers: memory that is free, cores that compute and their instruction sets.

mod cgroup;

use std::fs;
use std::path::Path;

pub use cgroup::{CgroupMemory, cgroup_processors};
use quire_kernels::cpu::{SimdLevel, Topology};

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
    /// Reads the operating system's figures; limits of this process's cgroups count as the machine's.
    pub fn detect() -> Self {
        Self {
            available_memory: available_memory(),
            num_cores: Topology::detect().num_cores(),
            simd_levels: SimdLevel::available(),
        }
    }
}

fn available_memory() -> u64 {
    let free = fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo_available(&text));
    let allowed = CgroupMemory::of_process(Path::new("/")).iter().map(CgroupMemory::free).min();
    free.into_iter().chain(allowed).min().unwrap_or(u64::MAX)
}

fn meminfo_available(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
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
