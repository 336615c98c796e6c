//! Where the ranks of one process meet: nobody waits for a rank that has failed, nor for longer than the deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::cuda::{GroupId, Nccl, abort_all};
use super::one_shot::Desk;
use crate::device::{Device, DeviceError};
use crate::tensor::ViewMut;

/// Looks at the others before a waiting rank gives its processor away: some tens of microseconds.
const SPINS_BEFORE_YIELD: u32 = 20_000;

/// A rank's place among those that run one model. Rank 0 is the first.
#[derive(Clone)]
pub struct RankGroup {
    shared: Arc<Shared>,
    rank: usize,
    /// Of a rank on a GPU.
    nccl: Option<Arc<Nccl>>,
    /// Of all ranks, where their GPUs reach each other's memory.
    desks: Option<Arc<[Arc<Desk>]>>,
}

struct Shared {
    /// What each rank brought to this meeting.
    brought: Vec<RwLock<Option<ViewMut<'static>>>>,
    num_arrived: AtomicUsize,
    /// Meetings so far.
    turn: AtomicUsize,
    has_failed: AtomicBool,
    /// Why, by the first who failed.
    failure: Mutex<Option<String>>,
    deadline: Duration,
    /// Of all ranks, where they are on GPUs.
    gpus: Mutex<Vec<Arc<Nccl>>>,
    desks: Mutex<Vec<Option<Arc<Desk>>>>,
    /// Some GPU does not reach the memory of all others.
    is_apart: AtomicBool,
}

impl Shared {
    /// Ends all sums of GPUs that wait for a rank.
    fn abort(&self) {
        self.desks.lock().iter().flatten().for_each(|desk| desk.call_off());
        abort_all(&self.gpus.lock());
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.abort();
    }
}

impl RankGroup {
    /// The places of `num_ranks` ranks, in order. A rank that lets others wait for longer than `deadline` has failed.
    pub fn new(num_ranks: usize, deadline: Duration) -> Vec<Self> {
        let shared = Arc::new(Shared {
            brought: (0..num_ranks).map(|_| RwLock::new(None)).collect(),
            num_arrived: AtomicUsize::new(0),
            turn: AtomicUsize::new(0),
            has_failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            deadline,
            gpus: Mutex::default(),
            desks: Mutex::new(vec![None; num_ranks]),
            is_apart: AtomicBool::new(false),
        });
        let of_rank = |rank| Self { shared: Arc::clone(&shared), rank, nccl: None, desks: None };
        (0..num_ranks).map(of_rank).collect()
    }

    /// This rank's place, on the GPU `device`; returns when all ranks have called it with the same `id`.
    pub fn on_gpu(self, device: &Device, id: GroupId) -> Result<Self, DeviceError> {
        let Device::Cuda(cuda) = device else { return Ok(self) };
        let desk = Arc::new(Desk::new(cuda)?);
        self.shared.desks.lock()[self.rank] = Some(Arc::clone(&desk));
        let nccl = Arc::new(Nccl::join(cuda, id, (self.rank, self.num_ranks()))?);
        self.shared.gpus.lock().push(Arc::clone(&nccl));
        // All have joined, so all desks are there.
        let desks: Arc<[_]> = self.shared.desks.lock().iter().flatten().cloned().collect();
        if !desk.reaches(&desks)? {
            self.shared.is_apart.store(true, Ordering::Release);
        }
        self.wait();
        let desks = (!self.shared.is_apart.load(Ordering::Acquire)).then_some(desks);
        Ok(Self { nccl: Some(nccl), desks, ..self })
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    pub fn num_ranks(&self) -> usize {
        self.shared.brought.len()
    }

    /// How long ranks wait for each other.
    pub fn deadline(&self) -> Duration {
        self.shared.deadline
    }

    /// Says that this rank cannot go on: whoever waits for it, or will, panics with `why`. On GPUs that is the end: there is
    /// no reset.
    pub fn fail(&self, why: &str) {
        let mut failure = self.shared.failure.lock();
        failure.get_or_insert_with(|| format!("rank {}: {why}", self.rank));
        self.shared.has_failed.store(true, Ordering::Release);
        drop(failure);
        self.shared.abort();
    }

    /// Why the group failed, if it did.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure.lock().clone()
    }

    /// What went wrong with sums of this rank that were launched on its GPU.
    pub fn check_gpu(&self) -> Result<(), String> {
        if let Some(failure) = self.failure() {
            return Err(failure);
        }
        let checked = self.nccl.as_ref().map_or(Ok(()), |nccl| nccl.check());
        checked.map_err(|error| error.to_string())
    }

    pub(super) fn nccl(&self) -> &Nccl {
        self.nccl.as_ref().expect("ranks on GPUs have joined")
    }

    pub(super) fn desks(&self) -> Option<&[Arc<Desk>]> {
        self.desks.as_deref()
    }

    /// Lets the ranks meet again after a failure. No rank is in a step.
    pub fn reset(&self) {
        self.shared.num_arrived.store(0, Ordering::Relaxed);
        *self.shared.failure.lock() = None;
        self.shared.has_failed.store(false, Ordering::Release);
    }

    /// Calls `work` when every rank has brought its `x`; returns when all have done their work.
    pub(super) fn meet(&self, x: &ViewMut, work: impl FnOnce(&Meeting)) {
        // SAFETY: the others use it only inside this meeting, for which `x` is borrowed; who leaves it early, because
        // another rank failed, keeps its memory until every rank has left.
        let x: ViewMut<'static> = unsafe { std::mem::transmute(x.alias()) };
        let shape = (x.rows(), x.cols());
        *self.shared.brought[self.rank].write() = Some(x);
        self.wait();
        let meeting = Meeting { brought: &self.shared.brought };
        let is_same = meeting.views().all(|x| (x.rows(), x.cols()) == shape);
        assert!(is_same, "ranks brought other shapes than {shape:?}");
        work(&meeting);
        self.wait();
    }

    /// Panics with the failure of the group.
    pub(super) fn stop_if_failed(&self) {
        let has_failed = self.shared.has_failed.load(Ordering::Acquire);
        assert!(!has_failed, "{}", self.failure().unwrap_or_default());
    }

    fn wait(&self) {
        let shared = &*self.shared;
        // Ranks that left early count as here: after a failure nobody meets before the reset.
        self.stop_if_failed();
        let turn = shared.turn.load(Ordering::Acquire);
        if shared.num_arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.num_ranks() {
            shared.num_arrived.store(0, Ordering::Relaxed);
            shared.turn.store(turn + 1, Ordering::Release);
            return;
        }
        let (mut spins, mut since) = (0_u32, None);
        while shared.turn.load(Ordering::Acquire) == turn {
            self.stop_if_failed();
            spins = spins.saturating_add(1);
            if spins < SPINS_BEFORE_YIELD {
                std::hint::spin_loop();
                continue;
            }
            std::thread::yield_now();
            let since = since.get_or_insert_with(Instant::now);
            if since.elapsed() > shared.deadline {
                self.fail(&format!("another rank did not come within {:?}", shared.deadline));
            }
        }
    }
}

/// What all ranks brought.
pub(super) struct Meeting<'a> {
    brought: &'a [RwLock<Option<ViewMut<'static>>>],
}

impl Meeting<'_> {
    /// That of each rank, in order. The ranks share out which parts of them they touch.
    pub(super) fn views(&self) -> impl Iterator<Item = ViewMut<'static>> + Clone {
        (0..self.brought.len()).map(|rank| self.view(rank))
    }

    pub(super) fn view(&self, rank: usize) -> ViewMut<'static> {
        let brought = self.brought[rank].read();
        let view = brought.as_ref().expect("each rank brings its view before it waits");
        // SAFETY: the ranks take disjoint parts of it.
        unsafe { view.alias() }
    }
}
