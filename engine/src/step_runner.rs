//! Where steps run: on the loop's own thread, or behind it on another while the loop prepares the next one.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use quire_kernels::cpu::StayNear;

use crate::model_runner::{StepJob, StepResult};
use crate::ranks::Ranks;
use crate::sequence_table::RowInit;
use crate::speculative::{Ask, Guess};

/// Takes steps and answers them in the order of their launches.
pub enum StepRunner {
    /// A step runs when it is waited for: nobody has to be woken before or after it. On a GPU it is launched at once, and
    /// runs there while the loop goes on.
    Inline(Box<InlineRunner>),
    /// A step runs while the loop goes on.
    Threaded(RunnerThread),
}

/// A step's buffers come back to be used again.
pub struct Reply {
    pub rows: Vec<RowInit>,
    /// The panic's text when the step failed.
    pub result: Result<Box<StepResult>, String>,
    /// No step can run any more.
    pub is_lost: bool,
}

impl StepRunner {
    /// `overlaps`: steps run while the loop goes on.
    pub fn new(runner: Ranks, overlaps: bool) -> Self {
        let runner = GuardedRunner { runner, failure: None };
        if overlaps && !runner.runner.runs_ahead() {
            Self::Threaded(RunnerThread::spawn(runner))
        } else {
            Self::Inline(Box::new(InlineRunner { runner, launched: VecDeque::new() }))
        }
    }

    /// Keeps the calling thread near the memory of the steps that it will run, if it runs them.
    pub fn stay_near(&self) -> Option<StayNear> {
        match self {
            Self::Inline(inline) => inline.runner.runner.stay_near(),
            Self::Threaded(_) => None,
        }
    }

    /// Puts a step behind those already launched.
    pub fn launch(&mut self, job: StepJob, result: Box<StepResult>) {
        match self {
            Self::Inline(inline) => inline.launch(job, result),
            Self::Threaded(thread) => thread.send(Command::Step(job, result)),
        }
    }

    /// Returns when the oldest step in flight is done.
    pub fn wait(&mut self) -> Reply {
        match self {
            Self::Inline(inline) => inline.run_oldest(),
            Self::Threaded(thread) => thread.wait(),
        }
    }

    /// Between steps: what the model's own head guesses. It has none where steps run ahead.
    pub fn draft(&mut self, asks: &[Ask], guesses: &mut [Guess]) {
        if let Self::Inline(inline) = self {
            inline.runner.draft(asks, guesses);
        }
    }

    /// After a failed step: the rows are forgotten, and steps are taken again.
    pub fn reset(&mut self) {
        match self {
            Self::Inline(inline) => inline.runner.reset(),
            Self::Threaded(thread) => thread.send(Command::Reset),
        }
    }
}

/// A runner that outlives the panic of a step.
struct GuardedRunner {
    runner: Ranks,
    failure: Option<String>,
}

impl GuardedRunner {
    /// After a panic, steps are refused until `reset`: they were scheduled on top of the one that failed.
    fn run(&mut self, mut job: StepJob, mut result: Box<StepResult>) -> Reply {
        if self.failure.is_none() {
            let step = AssertUnwindSafe(|| self.runner.run(&mut job, &mut result));
            self.failure = catch_unwind(step).err().map(|payload| panic_text(&*payload));
        }
        let result = self.failure.clone().map_or(Ok(result), Err);
        Reply { rows: job.rows, result, is_lost: self.runner.is_lost() }
    }

    /// Of a GPU: `run` before what is to be waited for.
    fn launch(&mut self, job: &mut StepJob, result: &mut StepResult) {
        if self.failure.is_none() {
            let launch = AssertUnwindSafe(|| self.runner.launch(job, result));
            self.failure = catch_unwind(launch).err().map(|payload| panic_text(&*payload));
        }
    }

    /// Of a GPU: the rest of `run`.
    fn finish(&mut self, job: StepJob, mut result: Box<StepResult>) -> Reply {
        if self.failure.is_none() {
            let finish = AssertUnwindSafe(|| self.runner.finish(&mut result));
            self.failure = catch_unwind(finish).err().map(|payload| panic_text(&*payload));
        }
        let result = self.failure.clone().map_or(Ok(result), Err);
        Reply { rows: job.rows, result, is_lost: self.runner.is_lost() }
    }

    /// A panic counts as one of the next step.
    fn draft(&mut self, asks: &[Ask], guesses: &mut [Guess]) {
        let draft = AssertUnwindSafe(|| self.runner.draft(asks, guesses));
        self.failure = catch_unwind(draft).err().map(|payload| panic_text(&*payload));
    }

    fn reset(&mut self) {
        self.runner.reset();
        self.failure = None;
    }
}

/// Steps that wait for the loop to wait for them.
pub struct InlineRunner {
    runner: GuardedRunner,
    launched: VecDeque<(StepJob, Box<StepResult>)>,
}

impl InlineRunner {
    fn launch(&mut self, mut job: StepJob, mut result: Box<StepResult>) {
        if self.runner.runner.runs_ahead() {
            self.runner.launch(&mut job, &mut result);
        }
        self.launched.push_back((job, result));
    }

    fn run_oldest(&mut self) -> Reply {
        let (job, result) = self.launched.pop_front().expect("a step is waited for once");
        match self.runner.runner.runs_ahead() {
            true => self.runner.finish(job, result),
            false => self.runner.run(job, result),
        }
    }
}

/// The runner on a thread of its own.
pub struct RunnerThread {
    commands: Option<Sender<Command>>,
    replies: Receiver<Reply>,
    thread: Option<JoinHandle<()>>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a queue holds two, and a box would be allocated each step"
)]
enum Command {
    Step(StepJob, Box<StepResult>),
    Reset,
}

impl RunnerThread {
    fn spawn(runner: GuardedRunner) -> Self {
        let (commands, inbox) = unbounded();
        let (outbox, replies) = bounded(2);
        let thread = std::thread::Builder::new()
            .name("quire-runner".into())
            .spawn(move || serve(runner, &inbox, &outbox))
            .expect("the operating system can start a thread at start-up");
        Self { commands: Some(commands), replies, thread: Some(thread) }
    }

    fn wait(&self) -> Reply {
        self.replies.recv().expect("the runner thread answers every step before it ends")
    }

    fn send(&self, command: Command) {
        let commands = self.commands.as_ref().expect("taken only when dropped");
        commands.send(command).expect("the runner thread lives as long as its commands");
    }
}

impl Drop for RunnerThread {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs commands until their sender is gone.
fn serve(mut runner: GuardedRunner, inbox: &Receiver<Command>, outbox: &Sender<Reply>) {
    let _near = runner.runner.stay_near();
    for command in inbox {
        match command {
            Command::Reset => runner.reset(),
            Command::Step(job, result) => {
                if outbox.send(runner.run(job, result)).is_err() {
                    return;
                }
            }
        }
    }
}

pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into())
}
