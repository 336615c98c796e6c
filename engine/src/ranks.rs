//! The ranks of a tensor-parallel model: the first runs where steps run, each other on a thread of its own.
//!
//! Every rank gets the same steps and keeps the same rows. On CPUs only the first samples, and tells the others; on GPUs
//! each samples the same tokens of the same logits, which so stay where the next step takes them.

mod watch;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use quire_kernels::cpu::StayNear;
use quire_kernels::{DeviceHealth, RankGroup};
use quire_scheduler::{SampledSequence, SchedulerOutput};

use crate::model_runner::{ModelRunner, StepJob, StepResult};
use crate::sampler::Path;
use crate::sequence_table::RowInit;
use crate::speculative::{Ask, Guess};
use crate::step_runner::panic_text;
use watch::RankWatch;

/// A model on one rank or several.
pub struct Ranks {
    /// There until the drop.
    first: Option<ModelRunner>,
    others: Vec<Follower>,
    /// `None`: there is one rank.
    group: Option<RankGroup>,
    /// A rank does not answer, so no step can run any more.
    is_lost: bool,
    /// Of ranks on GPUs.
    watch: Option<RankWatch>,
}

impl Ranks {
    /// `runners` in the order of their ranks; several have a group.
    pub fn new(runners: Vec<ModelRunner>, group: Option<RankGroup>) -> Self {
        let mut runners = runners.into_iter();
        let first = runners.next().expect("there is a rank");
        let others = runners.enumerate().map(|(index, runner)| Follower::spawn(index + 1, runner));
        let others = others.collect();
        let watched = group.clone().filter(|_| first.is_on_gpu());
        let watch = watched.map(RankWatch::spawn);
        Self { first: Some(first), others, group, is_lost: false, watch }
    }

    /// Whether no step can run any more.
    pub fn is_lost(&self) -> bool {
        // What ranks on GPUs wait for cannot be begun anew.
        let has_failed = |group: &RankGroup| group.failure().is_some();
        self.is_lost || (self.watch.is_some() && self.group.as_ref().is_some_and(has_failed))
    }

    /// Whether steps are launched and finished (`launch`, `finish`) instead of run: on GPUs.
    pub fn runs_ahead(&self) -> bool {
        self.first.as_ref().is_some_and(ModelRunner::runs_ahead)
    }

    pub fn launch(&mut self, job: &mut StepJob, result: &mut StepResult) {
        let row = |row: &RowInit| RowInit { sampling: row.sampling.for_rank(), ..row.clone() };
        let copy = || {
            let rows = job.rows.iter().map(row).collect();
            Command::Launch(Box::new(StepJob { output: job.output.clone(), rows }))
        };
        self.others.iter().for_each(|other| other.send(copy()));
        self.on_first(|first| first.launch(job, result));
    }

    pub fn finish(&mut self, result: &mut StepResult) {
        self.others.iter().for_each(|other| other.send(Command::Finish));
        self.on_first(|first| first.finish(result));
    }

    /// What the first rank does in a step. If it panics the others are told, and this panics too.
    fn on_first(&mut self, work: impl FnOnce(&mut ModelRunner)) {
        let first = self.first.as_mut().expect("there until the drop");
        let Some(group) = &self.group else { return work(first) };
        let work = AssertUnwindSafe(|| work(first));
        let done = match &self.watch {
            Some(watch) => watch.over(|| catch_unwind(work)),
            None => catch_unwind(work),
        };
        if let Err(payload) = done {
            group.fail(&panic_text(&*payload));
            if self.watch.is_none() {
                resume_unwind(payload);
            }
        }
        // On a GPU the failure of another rank is seen when all is done, and may be the reason of this one's.
        if self.watch.is_some()
            && let Err(error) = group.check_gpu()
        {
            group.fail(&error);
            panic!("{error}");
        }
    }

    /// One step on all ranks. A rank that panics ends the step of all, and this panics.
    pub fn run(&mut self, job: &mut StepJob, result: &mut StepResult) {
        if self.group.is_none() {
            return self.on_first(|first| first.run(job, result));
        }
        let step = Arc::new(Step { output: job.output.clone(), rows: job.rows.clone() });
        self.others.iter().for_each(|other| other.send(Command::Step(Arc::clone(&step))));
        self.on_first(|first| first.run(job, result));
        let first = self.first.as_ref().expect("there until the drop");
        let sampled = result.output.sequences.clone();
        let sampled = Arc::new(SampledStep { step, sampled, paths: first.paths().to_vec() });
        let sampled = |other: &Follower| other.send(Command::Sampled(Arc::clone(&sampled)));
        self.others.iter().for_each(sampled);
    }

    /// What the first rank's head guesses; see `ModelRunner::draft`.
    pub fn draft(&mut self, asks: &[Ask], guesses: &mut [Guess]) {
        self.first.as_mut().expect("there until the drop").draft(asks, guesses);
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
        if self.is_lost() {
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

/// What the first rank sampled of each sequence of a step, and which drafts are right.
struct SampledStep {
    step: Arc<Step>,
    sampled: Vec<SampledSequence>,
    paths: Vec<Path>,
}

enum Command {
    Step(Arc<Step>),
    Sampled(Arc<SampledStep>),
    /// On a GPU, and the rest of the oldest step launched.
    Launch(Box<StepJob>),
    Finish,
    Reset,
}

/// A rank on a thread of its own.
struct Follower {
    commands: Option<Sender<Command>>,
    was_reset: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// Commands that may wait: two steps with what was sampled or finished, and a reset.
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
    let mut in_flight: VecDeque<StepResult> = VecDeque::new();
    for command in inbox {
        match command {
            Command::Reset => {
                runner.reset();
                has_failed = false;
                let _ = outbox.try_send(());
            }
            _ if has_failed => {}
            command => {
                let run = AssertUnwindSafe(|| take(&mut runner, command, &mut in_flight));
                if let Err(payload) = catch_unwind(run) {
                    runner.fail_group(&panic_text(&*payload));
                    has_failed = true;
                }
            }
        }
    }
}

/// What another rank than the first does. `in_flight`: results that nobody reads.
fn take(runner: &mut ModelRunner, command: Command, in_flight: &mut VecDeque<StepResult>) {
    match command {
        Command::Step(step) => runner.follow(&step.output, &step.rows),
        Command::Sampled(last) => {
            runner.take_sampled(&last.step.output, (&last.sampled, &last.paths));
        }
        Command::Launch(mut job) => {
            let mut result = StepResult::default();
            runner.launch_as_follower(&mut job, &mut result);
            in_flight.push_back(result);
        }
        Command::Finish => {
            let mut result = in_flight.pop_front().expect("a step is launched before");
            runner.finish(&mut result);
        }
        Command::Reset => {}
    }
}
