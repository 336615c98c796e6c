//! Persistent compute threads: they spin briefly between ops and then sleep, so an idle server costs nothing.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

/// How often a worker looks for the next job before it sleeps: some tens of microseconds, longer than the
/// scalar work between two ops of a step.
const SPINS_BEFORE_SLEEP: u32 = 20_000;

/// Ranges for each thread, so that none waits long for a slow one.
const TASKS_PER_THREAD: usize = 4;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// The job that the current generation runs.
struct Job {
    task: *const Task<'static>,
    num_tasks: usize,
}

struct Shared {
    /// Bumped to publish a job; workers run each generation once.
    generation: AtomicU64,
    job: UnsafeCell<Job>,
    next_task: AtomicUsize,
    /// Workers that have not finished the current generation.
    num_pending: AtomicUsize,
    num_sleeping: Mutex<usize>,
    wake: Condvar,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written only while no worker runs (num_pending == 0) and before the release store of `generation`
// that lets workers read it; everything else is atomic or locked.
unsafe impl Sync for Shared {}
// SAFETY: as above; the task pointer is dereferenced only inside `run`, whose caller keeps the task alive.
unsafe impl Send for Shared {}

/// `num_threads` threads, the caller of `run` included.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One job at a time.
    in_use: Mutex<()>,
}

impl ThreadPool {
    pub fn new(num_threads: usize) -> Self {
        let shared = Arc::new(Shared {
            generation: AtomicU64::new(0),
            job: UnsafeCell::new(Job { task: &|_| (), num_tasks: 0 }),
            next_task: AtomicUsize::new(0),
            num_pending: AtomicUsize::new(0),
            num_sleeping: Mutex::new(0),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let workers = (1..num_threads.max(1))
            .map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("quire-compute-{index}"))
                    .spawn(move || shared.work())
                    .expect("the operating system can start a thread at start-up")
            })
            .collect();
        Self { shared, workers, in_use: Mutex::new(()) }
    }

    /// Threads that share a job, the caller included.
    pub fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(i)` once for each `i < num_tasks`, on any thread, and returns when all are done.
    /// Results must not depend on which thread runs a task. A panic of a task is raised again here.
    pub fn run(&self, num_tasks: usize, task: &Task<'_>) {
        if self.workers.is_empty() || num_tasks <= 1 {
            (0..num_tasks).for_each(task);
            return;
        }
        let _in_use = self.in_use.lock();
        let shared = &*self.shared;
        // SAFETY: the pointer outlives its use: this function returns (or unwinds) only after every worker is done.
        let task: &Task<'static> =
            unsafe { std::mem::transmute::<&Task<'_>, &Task<'static>>(task) };
        // SAFETY: no worker reads the job now (num_pending is 0 and `in_use` is held).
        unsafe { *shared.job.get() = Job { task, num_tasks } };
        shared.next_task.store(0, Ordering::Relaxed);
        shared.num_pending.store(self.workers.len(), Ordering::Relaxed);
        shared.generation.fetch_add(1, Ordering::Release);
        if *shared.num_sleeping.lock() > 0 {
            shared.wake.notify_all();
        }
        shared.run_tasks(task, num_tasks);
        let mut spins = 0_u32;
        while shared.num_pending.load(Ordering::Acquire) > 0 {
            relax(&mut spins);
        }
        if let Some(payload) = shared.panic.lock().take() {
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
        self.shared.stop.store(true, Ordering::Release);
        drop(self.shared.num_sleeping.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut seen = 0;
        while let Some(generation) = self.next_generation(seen) {
            seen = generation;
            // SAFETY: the acquire load of `generation` makes the job of that generation visible, and it stays until
            // this worker has counted itself out below.
            let (task, num_tasks) = unsafe {
                let job = &*self.job.get();
                (&*job.task, job.num_tasks)
            };
            self.run_tasks(task, num_tasks);
            self.num_pending.fetch_sub(1, Ordering::Release);
        }
    }

    /// Takes tasks until none is left; keeps the first panic for the caller of `run`.
    fn run_tasks(&self, task: &Task<'_>, num_tasks: usize) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next_task.fetch_add(1, Ordering::Relaxed);
                if index >= num_tasks {
                    break;
                }
                task(index);
            }
        }));
        if let Err(payload) = result {
            self.next_task.store(num_tasks, Ordering::Relaxed);
            self.panic.lock().get_or_insert(payload);
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
            if self.stop.load(Ordering::Acquire) {
                return None;
            }
            relax(&mut spins);
        }
        let mut num_sleeping = self.num_sleeping.lock();
        *num_sleeping += 1;
        let found = loop {
            // `run` publishes before it takes the lock that is held here, so no wake-up is lost.
            let generation = self.generation.load(Ordering::Acquire);
            if generation != seen {
                break Some(generation);
            }
            if self.stop.load(Ordering::Acquire) {
                break None;
            }
            self.wake.wait(&mut num_sleeping);
        };
        *num_sleeping -= 1;
        found
    }
}

/// One turn of a spin loop; gives the core away now and then, for machines with more threads than cores.
fn relax(spins: &mut u32) {
    *spins += 1;
    if spins.is_multiple_of(256) {
        std::thread::yield_now();
    } else {
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
        let sleeping = || *pool.shared.num_sleeping.lock();
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
}
