//! Persistent compute threads: they spin briefly between ops and then sleep, so an idle server costs nothing.

mod claims;
mod read_ahead;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use super::topology::{StayNear, Topology};
pub(crate) use claims::share;
use claims::{Alone, Claims, MAX_ITEMS};
pub(crate) use read_ahead::ReadAhead;

/// How often a worker looks for the next job before it sleeps: some tens of microseconds, longer than the
/// scalar work between two ops of a step.
const SPINS_BEFORE_SLEEP: u32 = 20_000;

/// Ranges for each thread, so that none waits long for a slow one.
const TASKS_PER_THREAD: usize = 4;

/// Phases of a job, at most.
const MAX_PHASES: usize = 4;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// `task(i)` for each `i < num_items`.
#[derive(Clone, Copy)]
pub(crate) struct Phase<'a> {
    pub num_items: usize,
    pub task: &'a Task<'a>,
}

/// What the threads work at in the current generation.
#[derive(Clone, Copy)]
struct Job {
    phases: *const [Phase<'static>],
    /// Epoch of the first phase; the others follow.
    first_epoch: u64,
}

thread_local! {
    static THREAD: Cell<usize> = const { Cell::new(0) };
}

struct Shared {
    /// Bumped to publish a job.
    generation: AtomicU64,
    /// The last generation whose job is over: who comes late stays out.
    closed: AtomicU64,
    /// Workers that may be looking at the job.
    num_inside: AtomicUsize,
    job: UnsafeCell<Job>,
    claims: Claims,
    /// Items done of each phase.
    num_done: [Alone<AtomicUsize>; MAX_PHASES],
    num_sleeping: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    stop: AtomicBool,
    /// A task panicked: what is left is only counted.
    failed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only while no worker is inside and before the store of `generation` that lets workers in;
// everything else is atomic or locked.
unsafe impl Sync for Shared {}
// SAFETY: as above; the phases are looked at only inside `run_phases`, whose caller keeps them alive.
unsafe impl Send for Shared {}

/// `num_threads` threads, the caller of `run` included.
pub struct ThreadPool {
    shared: Arc<Shared>,
    /// Processors near the memory that the caller of `run` reads most; empty: any.
    near_caller: Vec<usize>,
    workers: Vec<JoinHandle<()>>,
    /// One job at a time; the epoch that the next one begins with.
    next_epoch: Mutex<u64>,
}

impl ThreadPool {
    /// On machines with several nodes of memory each thread stays on the processors of one.
    pub fn new(num_threads: usize) -> Self {
        Self::of_rank(num_threads, 0, 1)
    }

    /// As `new` for one of several pools of as many threads, each with processors of its own.
    pub fn of_rank(num_threads: usize, rank: usize, num_ranks: usize) -> Self {
        let num_threads = num_threads.max(1);
        let placement = Topology::detect().placement(num_threads * num_ranks);
        let mut placement = placement.into_iter().skip(rank * num_threads);
        let near_caller = placement.next().unwrap_or_default();
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            num_inside: AtomicUsize::new(0),
            job: UnsafeCell::new(Job { phases: &[], first_epoch: 0 }),
            claims: Claims::new(num_threads),
            num_done: Default::default(),
            num_sleeping: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let workers = (1..num_threads)
            .map(|index| {
                let shared = Arc::clone(&shared);
                let near = placement.next().unwrap_or_default();
                std::thread::Builder::new()
                    .name(format!("quire-compute-{index}"))
                    .spawn(move || {
                        let _near = StayNear::new(&near);
                        shared.work(index);
                    })
                    .expect("the operating system can start a thread at start-up")
            })
            .collect();
        Self { shared, near_caller, workers, next_epoch: Mutex::new(1) }
    }

    /// Threads that share a job, the caller included.
    pub fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Keeps the calling thread, which is to call `run`, near the memory of its share.
    pub fn stay_near(&self) -> Option<StayNear> {
        StayNear::new(&self.near_caller)
    }

    /// Index of the calling thread: 0 for who calls `run`.
    pub(crate) fn thread() -> usize {
        THREAD.get()
    }

    /// Items of a phase of `num_items` that the calling thread takes first, in this order.
    pub(crate) fn share(&self, num_items: usize) -> Range<usize> {
        share(Self::thread(), self.num_threads(), num_items)
    }

    /// Calls `task(i)` once for each `i < num_tasks`, on any thread, and returns when all are done.
    /// Results must not depend on which thread runs a task. A panic of a task is raised again here.
    pub fn run(&self, num_tasks: usize, task: &Task<'_>) {
        self.run_phases(&[Phase { num_items: num_tasks, task }]);
    }

    /// As `run` for each phase in turn: an item starts when every item of the phases before is done. The threads stay
    /// together in between, which is cheaper than jobs of their own.
    pub(crate) fn run_phases(&self, phases: &[Phase<'_>]) {
        if self.workers.is_empty() || phases.iter().all(|phase| phase.num_items <= 1) {
            for phase in phases {
                (0..phase.num_items).for_each(phase.task);
            }
            return;
        }
        assert!(phases.len() <= MAX_PHASES, "a job has up to {MAX_PHASES} phases");
        assert!(phases.iter().all(|phase| phase.num_items <= MAX_ITEMS), "too many items");
        let mut next_epoch = self.next_epoch.lock();
        let shared = &*self.shared;
        // SAFETY: the pointer outlives its use: this function returns (or unwinds) only when no worker is inside.
        let phases: &[Phase<'static>] =
            unsafe { std::mem::transmute::<&[Phase<'_>], &[Phase<'static>]>(phases) };
        let job = Job { phases, first_epoch: *next_epoch };
        *next_epoch += phases.len() as u64;
        for done in &shared.num_done[..phases.len()] {
            done.0.store(0, Ordering::Relaxed);
        }
        // SAFETY: no worker is inside, and none comes in before the next line.
        unsafe { *shared.job.get() = job };
        let generation = shared.generation.fetch_add(1, Ordering::SeqCst) + 1;
        if shared.num_sleeping.load(Ordering::SeqCst) > 0 {
            drop(shared.sleep.lock());
            shared.wake.notify_all();
        }
        shared.take_part(0, phases, job.first_epoch);
        let last = phases.len() - 1;
        shared.wait_for_phase(last, phases[last].num_items);
        shared.closed.store(generation, Ordering::SeqCst);
        let mut spins = 0;
        while shared.num_inside.load(Ordering::SeqCst) > 0 {
            relax(&mut spins);
        }
        if shared.failed.swap(false, Ordering::Relaxed)
            && let Some(payload) = shared.panic.lock().take()
        {
            resume_unwind(payload);
        }
    }

    /// Calls `task` with ranges that cover `0..num_items`, each of at least `smallest` items but the last: what is
    /// smaller than that runs on the caller without waking anyone.
    pub fn run_ranges(
        &self,
        num_items: usize,
        smallest: usize,
        task: &(dyn Fn(Range<usize>) + Sync),
    ) {
        let per_task = num_items.div_ceil(TASKS_PER_THREAD * self.num_threads()).max(smallest);
        self.run(num_items.div_ceil(per_task.max(1)), &|index| {
            task(index * per_task..num_items.min((index + 1) * per_task));
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(self.shared.sleep.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, thread: usize) {
        THREAD.set(thread);
        let mut seen = 0;
        while let Some(generation) = self.next_generation(seen) {
            seen = generation;
            self.num_inside.fetch_add(1, Ordering::SeqCst);
            if self.closed.load(Ordering::SeqCst) < generation {
                // SAFETY: the job of this generation was written before `generation`, and stays as long as it is not
                // closed and this worker counts as inside.
                let (phases, first_epoch) = unsafe {
                    let job = *self.job.get();
                    (&*job.phases, job.first_epoch)
                };
                self.take_part(thread, phases, first_epoch);
            }
            self.num_inside.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Takes items of each phase until none is left.
    fn take_part(&self, thread: usize, phases: &[Phase<'_>], first_epoch: u64) {
        for (index, phase) in phases.iter().enumerate() {
            if index > 0 {
                self.wait_for_phase(index - 1, phases[index - 1].num_items);
            }
            let mut num_done = 0;
            self.claims.for_each(thread, first_epoch + index as u64, phase.num_items, |item| {
                self.compute(phase.task, item);
                num_done += 1;
            });
            if num_done > 0 {
                self.num_done[index].0.fetch_add(num_done, Ordering::Release);
            }
        }
    }

    /// Keeps the first panic for the caller of `run`.
    fn compute(&self, task: &Task<'_>, item: usize) {
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(item))) {
            self.panic.lock().get_or_insert(payload);
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    fn wait_for_phase(&self, index: usize, num_items: usize) {
        let mut spins = 0;
        while self.num_done[index].0.load(Ordering::Acquire) < num_items {
            relax(&mut spins);
        }
    }

    /// Waits for a generation other than `seen`: spins, then sleeps. `None` when the pool is dropped.
    fn next_generation(&self, seen: u64) -> Option<u64> {
        let mut spins = 0;
        while spins < SPINS_BEFORE_SLEEP {
            let generation = self.generation.load(Ordering::Acquire);
            if generation != seen {
                return Some(generation);
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            relax(&mut spins);
        }
        let mut sleep = self.sleep.lock();
        self.num_sleeping.fetch_add(1, Ordering::SeqCst);
        // Whoever publishes after this sees the count; whoever did before is seen here.
        let found = loop {
            let generation = self.generation.load(Ordering::SeqCst);
            if generation != seen {
                break Some(generation);
            }
            if self.stop.load(Ordering::SeqCst) {
                break None;
            }
            self.wake.wait(&mut sleep);
        };
        self.num_sleeping.fetch_sub(1, Ordering::SeqCst);
        found
    }
}

/// One turn of a spin loop: reads ahead, or gives the core away now and then, for machines with more threads than
/// cores.
fn relax(spins: &mut u32) {
    *spins += 1;
    if spins.is_multiple_of(256) {
        std::thread::yield_now();
    } else if !ReadAhead::step() {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_in_every_job() {
        let pool = ThreadPool::new(4);
        for num_tasks in [0, 1, 2, 3, 100, 1000] {
            let counts: Vec<AtomicUsize> = (0..num_tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(num_tasks, &|i| {
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn ranges_cover_every_item_once() {
        let pool = ThreadPool::new(3);
        for (num_items, smallest) in [(0, 5), (1, 5), (5, 5), (6, 5), (1000, 1), (1000, 300)] {
            let counts: Vec<AtomicUsize> = (0..num_items).map(|_| AtomicUsize::new(0)).collect();
            pool.run_ranges(num_items, smallest, &|range| {
                assert!(range.len() >= smallest || range.end == num_items);
                for item in range {
                    counts[item].fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn workers_wake_after_they_slept() {
        let pool = ThreadPool::new(3);
        let sleeping = || pool.shared.num_sleeping.load(Ordering::SeqCst);
        while sleeping() < 2 {
            std::thread::yield_now();
        }
        let count = AtomicUsize::new(0);
        pool.run(64, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 64);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = ThreadPool::new(3);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(50, &|i| assert!(i != 17, "task seventeen"));
        }));
        assert!(result.is_err());
        let count = AtomicUsize::new(0);
        pool.run(50, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 50);
    }

    #[test]
    fn a_phase_begins_when_the_one_before_is_done() {
        let pool = ThreadPool::new(4);
        for round in 0..2000 {
            let (first, second) = (1 + round % 13, round % 7);
            let (num_first, num_second) = (AtomicUsize::new(0), AtomicUsize::new(0));
            pool.run_phases(&[
                Phase {
                    num_items: first,
                    task: &|_| {
                        num_first.fetch_add(1, Ordering::Relaxed);
                    },
                },
                Phase {
                    num_items: second,
                    task: &|_| {
                        assert_eq!(num_first.load(Ordering::Relaxed), first);
                        num_second.fetch_add(1, Ordering::Relaxed);
                    },
                },
            ]);
            assert_eq!(num_second.into_inner(), second);
        }
    }
}
