//! Memory, time and limits of processes, as Linux counts them.

use std::collections::HashMap;
use std::fs;

/// Largest resident memory of this process so far, bytes; 0 where the system does not say.
pub fn own_peak_memory() -> u64 {
    fs::read_to_string("/proc/self/status").map_or(0, |text| peak_memory_in(&text))
}

/// Largest resident memory of a process so far and of all its descendants, summed; `None` when it is not there.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = parent_in(&stat) {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut total = peak_memory_in(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?);
    let mut pending = children.remove(&pid).unwrap_or_default();
    while let Some(child) = pending.pop() {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        total += peak_memory_in(&status);
        pending.extend(children.remove(&child).unwrap_or_default());
    }
    Some(total)
}

/// Seconds of processor time of this process so far; 0 where the system does not say.
pub fn own_processor_time() -> f64 {
    fs::read_to_string("/proc/self/stat")
        .ok()
        .and_then(|stat| processor_time_in(&stat))
        .unwrap_or(0.0)
}

/// Most files that this process may open; `None` where the system does not say, or has no limit.
pub fn open_files_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// User and system time in a line of /proc/PID/stat: fields 14 and 15, hundredths of a second (USER_HZ) in Linux's ABI.
fn processor_time_in(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

fn peak_memory_in(status: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// The parent in a line of /proc/PID/stat, whose second field (the name) may hold anything.
fn parent_in(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_stat_are_read() {
        assert_eq!(peak_memory_in("VmPeak:  9 kB\nVmHWM:\t  12 kB\n"), 12 * 1024);
        assert_eq!(peak_memory_in("Name: x\n"), 0);
        assert_eq!(parent_in("12 (a ) b) S 7 12 12"), Some(7));
        assert_eq!(parent_in("12"), None);
        let stat = "7 (a b) R 1 7 7 0 -1 4194304 90 0 0 0 150 25 0 0 20 0 1 0 1 1 1";
        assert_eq!(processor_time_in(stat), Some(1.75));
        assert_eq!(processor_time_in("7 (a) R 1"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(own_peak_memory() > 0);
        assert!(own_processor_time() >= 0.0 && open_files_limit() != Some(0));
        assert!(peak_memory(std::process::id()).is_some_and(|bytes| bytes > 0));
        assert_eq!(peak_memory(u32::MAX), None);
    }
}
