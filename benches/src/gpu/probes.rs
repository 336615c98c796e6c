//! What single instructions do, beside the manual: where the emulator is right about silicon, and where not.

use std::fmt::Write as _;

use quire_kernels::cuda::probes::PROBES;
use quire_kernels::device::CudaDevice;
use serde::Serialize;

use super::Output;
use crate::report::Table;

#[derive(Serialize)]
struct Line {
    instruction: &'static str,
    what: String,
    /// `None`: as the manual says.
    difference: Option<String>,
    /// Of numbers that are rounded.
    largest_error: Option<f32>,
}

pub fn run(cuda: &CudaDevice, output: &Output) -> anyhow::Result<()> {
    let (mut lines, mut absent) = (Vec::new(), Vec::new());
    for probe in PROBES {
        if !probe.runs_on(cuda) {
            absent.push(probe.name);
            continue;
        }
        lines.extend(probe.run(cuda).into_iter().map(|finding| Line {
            instruction: probe.name,
            difference: finding.difference(),
            largest_error: finding.largest_error(),
            what: finding.what,
        }));
    }
    let columns = ["instruction", "what", "as the manual says", "largest error"];
    let mut table = Table::new(&columns).with_text_columns(3);
    for line in &lines {
        let answer = line.difference.as_ref().map_or("yes".into(), |text| format!("no: {text}"));
        let error = line.largest_error.map_or(String::new(), |error| format!("{error:.1e}"));
        table.row([line.instruction.into(), line.what.clone(), answer, error]);
    }
    let mut page = table.to_string();
    if !absent.is_empty() {
        let _ = writeln!(page, "\nThis GPU does not have: {}.", absent.join(", "));
    }
    output.write("instructions", &page, &lines)?;
    let num_bad = lines.iter().filter(|line| line.difference.is_some()).count();
    anyhow::ensure!(num_bad == 0, "{num_bad} instructions do not do what the manual says");
    Ok(())
}
