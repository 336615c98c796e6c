//! The ranks of a tensor-parallel model: the first runs where steps run, each other on a thread of its own.
//!
//! Every rank gets the same steps and keeps the same rows; only the first samples, and tells the others.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use quire_kernels::cpu::StayNear;
use quire_kernels::{DeviceHealth, RankGroup};
use quire_scheduler::{SampledSequence, SchedulerOutput};

use crate::model_runner::{ModelRunner, StepJob, StepResult};
use crate::sequence_table::RowInit;
use crate::step_runner::panic_text;

/// A model on one rank or several.
pub struct Ranks {
    /// There until the drop.
    first: Option<ModelRunner>,
    others: Vec<Follower>,
    /// `None`: there is one rank.
    group: Option<RankGroup>,
    /// A rank does not answer, so no step can run any more.
    is_lost: bool,
}

impl Ranks {
    /// `runners` in the order of their ranks; several have a group.
    pub fn new(runners: Vec<ModelRunner>, group: Option<RankGroup>) -> Self {
        let mut runners = runners.into_iter();
        let first = runners.next().expect("there is a rank");
        let others = runners.enumerate().map(|(index, runner)| Follower::spawn(index + 1, runner));
        Self { first: Some(first), others: others.collect(), group, is_lost: false }
    }

    /// Whether no step can run any more.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Whether steps are launched and finished (`launch`, `finish`) instead of run: on a GPU, which has one rank.
    pub fn runs_ahead(&self) -> bool {
        self.group.is_none() && self.first.as_ref().is_some_and(ModelRunner::runs_ahead)
    }

    pub fn launch(&mut self, job: &mut StepJob, result: &mut StepResult) {
        self.first.as_mut().expect("there until the drop").launch(job, result);
    }

    pub fn finish(&mut self, result: &mut StepResult) {
        self.first.as_mut().expect("there until the drop").finish(result);
    }

    /// One step on all ranks. A rank that panics ends the step of all, and this panics.
    pub fn run(&mut self, job: &mut StepJob, result: &mut StepResult) {
        let first = self.first.as_mut().expect("there until the drop");
        let Some(group) = &self.group else { return first.run(job, result) };
        let step = Arc::new(Step { output: job.output.clone(), rows: job.rows.clone() });
        self.others.iter().for_each(|other| other.send(Command::Step(Arc::clone(&step))));
        let run = AssertUnwindSafe(|| first.run(job, result));
        if let Err(payload) = catch_unwind(run) {
            group.fail(&panic_text(&*payload));
            resume_unwind(payload);
        }
        let sampled: Arc<[SampledSequence]> = result.output.sequences.as_slice().into();
        let sampled = |other: &Follower| {
            other.send(Command::Sampled(Arc::clone(&step), Arc::clone(&sampled)));
        };
        self.others.iter().for_each(sampled);
    }

    /// Forgets every row on every rank, unless one does not answer.
    pub fn reset(&mut self) {
        self.first.as_mut().expect("there until the drop").reset();
        let Some(group) = &self.group else { return };
        self.others.iter().for_each(|other| other.send(Command::Reset));
        let answered = |other: &Follower| other.was_reset.recv_timeout(group.deadline()).is_ok();
        match self.others.iter().all(answered) {
            true => group.reset(),
            false => self.is_lost = true,
        }
    }

    /// Whether the first rank's device still works.
    pub fn health(&self) -> DeviceHealth {
        self.first.as_ref().map(ModelRunner::health).unwrap_or_default()
    }

    pub fn stay_near(&self) -> Option<StayNear> {
        self.first.as_ref()?.stay_near()
    }
}

impl Drop for Ranks {
    /// A rank that does not answer may yet come back and write where it met the first: that memory is left to it.
    fn drop(&mut self) {
        if self.is_lost {
            std::mem::forget(self.first.take());
            self.others.iter_mut().for_each(|other| drop(other.thread.take()));
        }
    }
}

/// A step as the other ranks get it.
struct Step {
    output: SchedulerOutput,
    rows: Vec<RowInit>,
}

enum Command {
    Step(Arc<Step>),
    /// What the first rank sampled of each sequence of that step.
    Sampled(Arc<Step>, Arc<[SampledSequence]>),
    Reset,
}

/// A rank on a thread of its own.
struct Follower {
    commands: Option<Sender<Command>>,
    was_reset: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// Commands that may wait: two steps with what was sampled, and a reset.
const MAX_COMMANDS: usize = 8;

impl Follower {
    fn spawn(rank: usize, runner: ModelRunner) -> Self {
        let (commands, inbox) = bounded(MAX_COMMANDS);
        let (outbox, was_reset) = bounded(1);
        let thread = std::thread::Builder::new()
            .name(format!("quire-rank-{rank}"))
            .spawn(move || follow(runner, &inbox, &outbox))
            .expect("the operating system can start a thread at start-up");
        Self { commands: Some(commands), was_reset, thread: Some(thread) }
    }

    /// A rank that hangs takes nothing: its group has failed, or will at the next meeting.
    fn send(&self, command: Command) {
        let commands = self.commands.as_ref().expect("taken only when dropped");
        let _ = commands.try_send(command);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// After a panic, steps are passed over until the reset.
fn follow(mut runner: ModelRunner, inbox: &Receiver<Command>, outbox: &Sender<()>) {
    let _near = runner.stay_near();
    let mut has_failed = false;
    for command in inbox {
        match command {
            Command::Reset => {
                runner.reset();
                has_failed = false;
                let _ = outbox.try_send(());
            }
            Command::Step(step) if !has_failed => {
                let run = AssertUnwindSafe(|| runner.follow(&step.output, &step.rows));
                if let Err(payload) = catch_unwind(run) {
                    runner.fail_group(&panic_text(&*payload));
                    has_failed = true;
                }
            }
            Command::Sampled(step, sampled) if !has_failed => {
                runner.take_sampled(&step.output, &sampled);
            }
            Command::Step(_) | Command::Sampled(..) => {}
        }
    }
}
