//! Every case of every op on the GPU, beside its reference.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use quire_kernels::{Device, cases};
use serde::Serialize;

use super::{Output, cuda_of};
use crate::report::Table;

#[derive(Debug, Default, Serialize)]
pub struct Parity {
    ops: Vec<OpParity>,
    /// A kernel failed, and with it every later one.
    fault: Option<String>,
}

#[derive(Debug, Serialize)]
struct OpParity {
    op: &'static str,
    num_cases: usize,
    differences: Vec<String>,
}

/// Runs the cases whose output has at most `largest_output` numbers, of the ops named, or of all.
pub fn run(
    device: &Device,
    output: &Output,
    largest_output: usize,
    ops: &[String],
) -> anyhow::Result<()> {
    let mut parity = Parity::default();
    for mut case in cases::all() {
        let is_wanted = ops.is_empty() || ops.iter().any(|op| op == case.op);
        let has_kernel = !case.cuda_tolerance.is_nan();
        if !is_wanted || !has_kernel || case.output_len > largest_output {
            continue;
        }
        let result = catch_unwind(AssertUnwindSafe(|| case.check(device)))
            .unwrap_or_else(|_| Err(format!("{} {}: a panic", case.op, case.name)));
        if parity.ops.last().is_none_or(|last| last.op != case.op) {
            parity.ops.push(OpParity { op: case.op, num_cases: 0, differences: Vec::new() });
        }
        let last = parity.ops.last_mut().expect("pushed above");
        last.num_cases += 1;
        last.differences.extend(result.err());
        let is_alive = catch_unwind(AssertUnwindSafe(|| cuda_of(device).synchronize())).is_ok();
        if !is_alive {
            parity.fault = Some(format!("{} {}", case.op, case.name));
            break;
        }
    }
    output.write("parity", &page(&parity), &parity)?;
    let num_bad: usize = parity.ops.iter().map(|op| op.differences.len()).sum();
    anyhow::ensure!(num_bad == 0 && parity.fault.is_none(), "{num_bad} cases differ");
    Ok(())
}

fn page(parity: &Parity) -> String {
    let mut table = Table::new(&["op", "cases", "differ"]);
    for op in &parity.ops {
        table.row([op.op.into(), op.num_cases.to_string(), op.differences.len().to_string()]);
    }
    let mut page = format!("{table}\n");
    for difference in parity.ops.iter().flat_map(|op| &op.differences) {
        let _ = writeln!(page, "- {difference}");
    }
    if let Some(fault) = &parity.fault {
        let _ = writeln!(page, "\nThe GPU faulted in {fault}; nothing behind it was run.");
    }
    page
}
