//! What the process says of itself, under the names of the Prometheus client libraries.

use std::fmt::Write;

/// Appends the process's metrics to an exposition.
pub(super) fn render(start_time: u64, out: &mut String) {
    let mut metric = |name: &str, kind: &str, value: f64| {
        let _ = writeln!(out, "# TYPE {name} {kind}\n{name} {value}\n");
    };
    metric("process_start_time_seconds", "gauge", start_time as f64);
    if let Some(seconds) = cpu_seconds() {
        metric("process_cpu_seconds_total", "counter", seconds);
    }
    let sizes =
        [("process_resident_memory_bytes", "VmRSS:"), ("process_virtual_memory_bytes", "VmSize:")];
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, field) in sizes {
        if let Some(bytes) = bytes_of(&status, field) {
            metric(name, "gauge", bytes);
        }
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        metric("process_open_fds", "gauge", open.count() as f64);
    }
    if let Some(limit) = max_fds() {
        metric("process_max_fds", "gauge", limit);
    }
}

/// User and system time of the process.
fn cpu_seconds() -> Option<f64> {
    // Linux reports these in units of 1/100 s on every architecture (USER_HZ).
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold spaces; fields 14 and 15 are counted after it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// A size that `/proc/self/status` gives in kibibytes.
fn bytes_of(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

/// The soft limit of open files; without one, what a 64-bit number holds.
fn max_fds() -> Option<f64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX as f64),
        limit => limit.parse().ok(),
    }
}
