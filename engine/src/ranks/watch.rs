//! Ranks on GPUs wait for each other where no host sees it: who watches that a step ends in time.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use quire_kernels::RankGroup;

/// A thread that ends what the ranks wait for when the first is in one call for longer than the group's deadline.
pub struct RankWatch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// When the call began that the first rank is in.
    since: Option<Instant>,
    has_ended: bool,
}

impl RankWatch {
    pub fn spawn(group: RankGroup) -> Self {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("quire-rank-watch".into())
            .spawn(move || watch(&own, &group))
            .expect("the operating system can start a thread at start-up");
        Self { shared, thread: Some(thread) }
    }

    /// Calls `work`, which waits for other ranks.
    pub fn over<T>(&self, work: impl FnOnce() -> T) -> T {
        self.shared.state.lock().since = Some(Instant::now());
        let done = work();
        self.shared.state.lock().since = None;
        done
    }
}

fn watch(shared: &Shared, group: &RankGroup) {
    let deadline = group.deadline();
    // A rank is told late by a quarter of the deadline at most.
    let period = (deadline / 4).max(Duration::from_millis(1));
    let mut state = shared.state.lock();
    loop {
        shared.ended.wait_for(&mut state, period);
        if state.has_ended {
            return;
        }
        if state.since.is_some_and(|since| since.elapsed() > deadline) {
            drop(state);
            return group.fail(&format!("another rank did not come within {deadline:?}"));
        }
    }
}

impl Drop for RankWatch {
    fn drop(&mut self) {
        self.shared.state.lock().has_ended = true;
        self.shared.ended.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
