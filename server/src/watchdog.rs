//! Ends a process whose engine hangs, for operators who have no probe that would restart it.

use std::sync::{Arc, Weak};
use std::thread::Builder;
use std::time::Duration;
use std::{io, thread};

use quire_engine::handle::EngineHealth;

use crate::app::{AppState, SharedState};
use crate::model::ServedModel;

/// What the process ends with: EX_SOFTWARE of sysexits.h.
pub const EXIT_HUNG: i32 = 70;

/// So many looks in a row must find the engine hanging: after a process stood still, the first one always does.
const LOOKS: u32 = 3;

/// Calls `end` once a turn of an engine takes longer than `limit`, after saying in the log what hangs. It has a thread of its own, since
/// whatever hangs may hang others.
pub fn start(
    state: &SharedState,
    limit: Duration,
    end: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let pause = (limit / 8).clamp(Duration::from_millis(1), Duration::from_secs(1));
    let state = Arc::downgrade(state);
    Builder::new().name("quire-watchdog".into()).spawn(move || watch(&state, limit, pause, end))?;
    Ok(())
}

fn watch(state: &Weak<AppState>, limit: Duration, pause: Duration, end: impl FnOnce()) {
    let mut num_looks = 0;
    while let Some(state) = state.upgrade() {
        let models = state.models.all_loaded();
        let hanging = models.iter().find_map(|model| Some((model, hanging_for(model, limit)?)));
        num_looks = if hanging.is_some() { num_looks + 1 } else { 0 };
        if let Some((model, turn)) = hanging.filter(|_| num_looks >= LOOKS) {
            tell(model, turn);
            return end();
        }
        drop(state);
        thread::sleep(pause);
    }
}

/// How long its engine has been in one turn, if that is over `limit`.
fn hanging_for(model: &ServedModel, limit: Duration) -> Option<Duration> {
    match model.engine.health() {
        EngineHealth::Alive { turn } | EngineHealth::Draining { turn } => {
            Some(turn).filter(|&turn| turn > limit)
        }
        EngineHealth::Stopped => None,
    }
}

fn tell(model: &ServedModel, turn: Duration) {
    let step = model.engine.last_step();
    tracing::error!(
        model = model.name,
        step = step.number,
        sequences = step.num_sequences,
        tokens = step.num_tokens,
        waiting = model.engine.num_waiting(),
        seconds = turn.as_secs_f64(),
        "the engine hangs in this step: the process ends with {EXIT_HUNG} (--exit-on-hang)"
    );
}
