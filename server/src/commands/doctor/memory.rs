//! The memory that the cgroups and the machine leave, against the plan.

use quire_engine::machine::CgroupMemory;
use quire_engine::plan::human_bytes;

use super::{Finding, Surroundings};

/// What the process needs beside the plan: its code, its threads' stacks, what requests bring.
const BESIDE: u64 = 256 << 20;

pub(super) fn plan(around: &Surroundings) -> Finding {
    let limits = CgroupMemory::of_process(&around.root);
    let limit = limits.iter().map(|memory| memory.limit).min();
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
