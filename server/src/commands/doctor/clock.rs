//! The clock: deadlines and rates need a fast one, certificates and logs a right one.

use std::time::{Duration, UNIX_EPOCH};

use super::{Finding, Surroundings};

/// Before this check was written, 2026-11-01: no clock that is right says less.
const WRITTEN: Duration = Duration::from_secs(1_793_491_200);
/// Files from further ahead than this say that the clock is behind.
const AHEAD: Duration = Duration::from_secs(86_400);

pub(super) fn clock(around: &Surroundings) -> Finding {
    let since = around.now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since < WRITTEN {
        return Finding::failing(
            "the clock is before 2026-11-01, so it is wrong: set it, certificates need it",
        );
    }
    let modified = std::fs::metadata(&around.models_dir).and_then(|metadata| metadata.modified());
    if modified.is_ok_and(|modified| modified > around.now + AHEAD) {
        return Finding::warning(format!(
            "{} was changed more than a day ahead of the clock: is it right?",
            around.models_dir.display()
        ));
    }
    let source = around.text("sys/devices/system/clocksource/clocksource0/current_clocksource");
    match source.filter(|source| ["hpet", "acpi_pm", "jiffies"].contains(&source.as_str())) {
        Some(source) => Finding::warning(format!(
            "the kernel reads time from {source}, which is slow: steps are timed often; look why not tsc (dmesg)"
        )),
        None => Finding::ok("the clock is plausible"),
    }
}
