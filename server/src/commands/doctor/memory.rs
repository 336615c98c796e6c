//! The memory that the cgroups and the machine leave, against the plan.

use std::path::PathBuf;

use quire_engine::plan::human_bytes;

use super::{Finding, Surroundings};

/// What the process needs beside the plan: its code, its threads' stacks, what requests bring.
const BESIDE: u64 = 256 << 20;

pub(super) fn plan(around: &Surroundings) -> Finding {
    let limit = cgroup_limit(around);
    let all = around.meminfo("MemTotal");
    let least = limit.into_iter().chain(all).min();
    if let Some(Err(error)) = &around.plan {
        return Finding::failing(error);
    }
    let (Some(least), Some(&Ok((planned, _)))) = (least, around.plan.as_ref()) else {
        let limit = limit.map_or("none".to_owned(), human_bytes);
        return Finding::ok(format!(
            "limit of the cgroup: {limit}; name a model to compare its plan"
        ));
    };
    let what =
        format!("the plan takes {}, and {} are allowed", human_bytes(planned), human_bytes(least));
    if planned > least {
        return Finding::failing(format!(
            "{what}: the process would be killed; raise the cgroup's limit or lower --kv-cache-memory"
        ));
    }
    if planned.saturating_add(BESIDE) > least {
        let rest = human_bytes(BESIDE);
        return Finding::warning(format!("{what}: less than {rest} are left for all else"));
    }
    Finding::ok(what)
}

/// The least of the limits of the process's cgroup and those above it; of version 2, else of version 1.
fn cgroup_limit(around: &Surroundings) -> Option<u64> {
    let own = around.text("proc/self/cgroup").unwrap_or_default();
    let below =
        |line: &str| line.rsplit(':').next().map(|path| path.trim_start_matches('/').to_owned());
    let unified = own.lines().find(|line| line.starts_with("0::")).and_then(below);
    let first = own.lines().find(|line| line.contains(":memory:")).and_then(below);
    let of = |base: &str, path: String, file: &str| {
        let mut folder = PathBuf::from(base).join(path);
        let mut limits = Vec::new();
        loop {
            limits.extend(around.number(folder.join(file)));
            if folder.as_os_str() == base || !folder.pop() {
                return limits;
            }
        }
    };
    let mut limits = of("sys/fs/cgroup", unified.unwrap_or_default(), "memory.max");
    limits.extend(of("sys/fs/cgroup/memory", first.unwrap_or_default(), "memory.limit_in_bytes"));
    // Version 1 writes "no limit" as a number near 2^63.
    limits.into_iter().filter(|&limit| limit < 1 << 62).min()
}
