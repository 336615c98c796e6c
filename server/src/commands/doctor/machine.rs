//! Processors, pages and nodes of memory.

use quire_engine::machine::cgroup_processors;
use quire_engine::plan::human_bytes;

use super::{Finding, Surroundings};

/// The quota of processors against the threads that compute.
pub(super) fn processors(around: &Surroundings) -> Finding {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match around.plan {
        Some(Ok((_, threads))) => threads,
        _ => allowed,
    };
    let quota = cgroup_processors(&around.root);
    match quota.filter(|&quota| quota + 0.01 < threads as f64) {
        Some(quota) => Finding::warning(format!(
            "{threads} threads compute, but the cgroup's quota is {quota:.1} processors: they stop for the rest \
             of each period; set --threads {}",
            (quota as usize).max(1)
        )),
        None => Finding::ok(format!("{threads} threads compute, {allowed} processors are allowed")),
    }
}

/// Pages that are set aside are memory that Quire does not use.
pub(super) fn huge_pages(around: &Surroundings) -> Finding {
    let free = around.meminfo("HugePages_Free").unwrap_or(0);
    let bytes = free.saturating_mul(around.meminfo("Hugepagesize").unwrap_or(0));
    let all = around.meminfo("MemTotal").unwrap_or(u64::MAX);
    if bytes > all / 10 {
        return Finding::warning(format!(
            "{} are set aside as huge pages that nobody uses, Quire neither: lower vm.nr_hugepages",
            human_bytes(bytes)
        ));
    }
    Finding::ok("no memory is set aside in vain")
}

/// A process that may compute on nodes whose memory it may not have reads everything from afar.
pub(super) fn numa(around: &Surroundings) -> Finding {
    let Ok(nodes) = std::fs::read_dir(around.root.join("sys/devices/system/node")) else {
        return Finding::ok("one node of memory");
    };
    let number = |name: &str| name.strip_prefix("node")?.parse::<u32>().ok();
    let mut nodes: Vec<u32> =
        nodes.flatten().filter_map(|entry| number(entry.file_name().to_str()?)).collect();
    nodes.sort_unstable();
    let status = around.text("proc/self/status").unwrap_or_default();
    let allowed = |field: &str| {
        status.lines().find_map(|line| line.strip_prefix(field)).map(|list| numbers(list.trim()))
    };
    let (Some(memory), Some(processors)) =
        (allowed("Mems_allowed_list:"), allowed("Cpus_allowed_list:"))
    else {
        return Finding::ok(format!("{} nodes of memory", nodes.len()));
    };
    let away: Vec<u32> = nodes
        .iter()
        .copied()
        .filter(|node| {
            let list = around.text(format!("sys/devices/system/node/node{node}/cpulist"));
            let own = numbers(&list.unwrap_or_default());
            own.iter().any(|processor| processors.contains(processor)) && !memory.contains(node)
        })
        .collect();
    if away.is_empty() {
        return Finding::ok(format!(
            "{} nodes of memory, near the processors allowed",
            nodes.len().max(1)
        ));
    }
    Finding::warning(format!(
        "processors of the nodes {away:?} are allowed, but not their memory: give the cgroup both (cpuset.mems)"
    ))
}

/// A list as the kernel writes it: `0-3,8`. At most 65,536 numbers.
fn numbers(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u32>().ok()?..=last.trim().parse::<u32>().ok()?)
    };
    list.split(',').filter_map(range).flatten().take(1 << 16).collect()
}
