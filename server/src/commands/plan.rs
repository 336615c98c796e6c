//! `quire plan`: the memory a model needs and what fits, from its header alone.

use anyhow::Result;
use quire_engine::{Machine, MemoryPlan};

use super::model;
use crate::args::{CommonOptions, PlanArgs};

/// Prints the plan that `serve` would follow with the same flags.
pub(crate) fn run(args: &PlanArgs, options: &CommonOptions) -> Result<()> {
    let named = (args.model.as_deref(), args.engine.load_format());
    let (_, files) = model::open_named(named, options)?;
    let mut machine = Machine::detect();
    if let Some(memory) = args.memory {
        machine.available_memory = memory;
    }
    let plan = MemoryPlan::new(&files, &args.engine.resolve(), &machine)?;
    println!("{}", table(&plan));
    Ok(())
}

/// The plan as lines of name and value.
pub(crate) fn table(plan: &MemoryPlan) -> String {
    let lines: Vec<String> =
        plan.table().iter().map(|(name, value)| format!("  {name:16} {value}")).collect();
    lines.join("\n")
}
