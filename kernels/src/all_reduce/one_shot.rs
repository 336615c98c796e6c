//! Small sums of GPUs that reach each other's memory: one launch, where NCCL takes several rounds.

use std::sync::Arc;

use crate::cuda::{Context, CudaDevice, DeviceBuffer, Grid, PinnedWord, Structure};
use crate::device::DeviceError;
use crate::tensor::{DType, ViewMut};

/// Ranks, blocks of a launch, and the memory of a rank, as in `one_shot.cu`. Up to 512 KiB the latency counts: vLLM's and
/// TensorRT-LLM's limits lie between 256 KiB and 8 MiB; to be measured on silicon.
const MAX_RANKS: usize = 8;
const BLOCKS: usize = 16;
const THREADS: usize = 256;
const DESK_BYTES: usize = 1024;
const ROOM_BYTES: usize = 512 << 10;
const PIECE_BYTES: usize = 16;

/// Of one rank: where it puts its numbers and is told that the others have put theirs.
pub(super) struct Desk {
    context: Arc<Context>,
    memory: DeviceBuffer,
    called_off: PinnedWord,
}

impl Desk {
    pub(super) fn new(cuda: &CudaDevice) -> Result<Self, DeviceError> {
        let context = Arc::clone(cuda.context());
        let memory = DeviceBuffer::zeroed(&context, DESK_BYTES + 2 * ROOM_BYTES)?;
        // The others may write as soon as they know of it.
        context.synchronize();
        let called_off = PinnedWord::new(&context)?;
        Ok(Self { context, memory, called_off })
    }

    /// Ends a sum of this rank that waits, or will, for one that never comes.
    pub(super) fn call_off(&self) {
        self.called_off.set(1);
    }

    /// Whether this rank reaches the memory of all `desks`, one for each rank.
    pub(super) fn reaches(&self, desks: &[Arc<Self>]) -> Result<bool, DeviceError> {
        let mut reached = desks.iter().map(|desk| self.context.reach(&desk.context));
        let reaches_all = reached.try_fold(true, |all, reached| Ok(all && reached?))?;
        Ok(reaches_all && desks.len() <= MAX_RANKS)
    }
}

/// The structure of that name in `one_shot.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct OneShot {
    of_rank: [u64; MAX_RANKS],
    x: u64,
    called_off: u64,
    rank: u32,
    num_ranks: u32,
    pieces: u32,
    unused: u32,
}

// SAFETY: the fields of the structure in `one_shot.cu`, without padding.
unsafe impl Structure for OneShot {}

/// Whether `x` is added up in one launch. For batch invariance all that can be is: NCCL's order depends on the size.
pub(super) fn takes(cuda: &CudaDevice, x: &ViewMut) -> bool {
    let bytes = num_bytes(x);
    let is_small = bytes <= ROOM_BYTES || cuda.is_batch_invariant();
    let is_aligned = x.pointer().0.is_multiple_of(PIECE_BYTES as u64);
    is_small && is_aligned && bytes.is_multiple_of(PIECE_BYTES)
}

/// `x` becomes the sum of all ranks' in their order, rounded once. `desks`: of all ranks, which reach each other.
pub(super) fn sum(cuda: &CudaDevice, desks: &[Arc<Desk>], rank: usize, x: &ViewMut) {
    let kernel = if x.dtype() == DType::F32 { "one_shot_f32" } else { "one_shot_bf16" };
    let mut of_rank = [0; MAX_RANKS];
    of_rank.iter_mut().zip(desks).for_each(|(to, desk)| *to = desk.memory.address());
    let bytes = num_bytes(x);
    for start in (0..bytes).step_by(ROOM_BYTES) {
        let argument = OneShot {
            of_rank,
            x: x.pointer().add(start).0,
            called_off: desks[rank].called_off.pointer().0,
            rank: rank as u32,
            num_ranks: desks.len() as u32,
            pieces: ((bytes - start).min(ROOM_BYTES) / PIECE_BYTES) as u32,
            unused: 0,
        };
        // Always as many blocks: each counts its own turns.
        let grid = Grid::new(BLOCKS, THREADS);
        cuda.launch_together(kernel, grid, &[crate::cuda::Argument::structure(&argument)]);
    }
}

fn num_bytes(x: &ViewMut) -> usize {
    x.rows() * x.cols() * x.dtype().size()
}
