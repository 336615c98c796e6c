//! The whole numbers of a step where the device reads them: on a GPU one upload of pinned memory a step, and block tables
//! that live there, of which only changes travel.

use crate::cuda::{CudaDevice, Grid, PinnedBuffer, Pointer};
use crate::device::{Device, DeviceError};
use crate::indices::Indices;
use crate::tensor::{DType, Tensor};

/// Uploads that may be under way while the host prepares the next.
const NUM_PINNED: usize = 3;

/// Of a block that enters changes.
const THREADS: usize = 256;

/// Changes of block tables that one upload takes along.
const CHANGES_AT_ONCE: usize = 4096;

/// `table[index] = block` of a block table that lies as `[max_num_seqs, max_blocks_per_seq]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableChange {
    pub index: u32,
    pub block: u32,
}

/// `array_0[index] = sampled[row]`: a token that a step sampled and the host does not know yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenToken {
    pub index: u32,
    pub row: u32,
}

/// What a step takes to the device.
#[derive(Clone, Copy)]
pub struct StepUpload<'a> {
    pub arrays: &'a [&'a [u32]],
    /// For each table.
    pub changes: &'a [Vec<TableChange>],
    /// Tokens of the first array that lie on the device already.
    pub taken: &'a [TakenToken],
    /// By row, `[1, rows]` U32 on the device; read by `taken`.
    pub sampled: Option<&'a Tensor>,
}

/// The arrays of a step. On the CPU it holds nothing: the host's arrays are the device's.
pub struct StepArrays {
    on_cuda: Option<OnCuda>,
    /// Where each array of the last upload begins.
    starts: Vec<usize>,
}

struct OnCuda {
    pinned: [PinnedBuffer; NUM_PINNED],
    next: usize,
    numbers: Tensor,
    tables: Vec<Tensor>,
    /// Changes of the tables and tokens taken as pairs of numbers, and how many there are of each table.
    changes: Vec<u32>,
    counts: Vec<usize>,
}

impl StepArrays {
    /// Room for `capacity` numbers a step (two for each token taken among them), and `num_tables` tables of `table_len`
    /// numbers, all 0.
    pub fn new(
        device: &Device,
        capacity: usize,
        num_tables: usize,
        table_len: usize,
    ) -> Result<Self, DeviceError> {
        let Device::Cuda(cuda) = device else {
            return Ok(Self { on_cuda: None, starts: Vec::new() });
        };
        let capacity = capacity + 2 * CHANGES_AT_ONCE;
        let bytes = capacity * DType::U32.size();
        let pinned = || PinnedBuffer::new(cuda.context(), bytes);
        let table = || device.allocate(DType::U32, 1, table_len);
        let on_cuda = OnCuda {
            pinned: [pinned()?, pinned()?, pinned()?],
            next: 0,
            numbers: device.allocate(DType::U32, 1, capacity)?,
            tables: (0..num_tables).map(|_| table()).collect::<Result<_, _>>()?,
            changes: Vec::with_capacity(2 * CHANGES_AT_ONCE),
            counts: Vec::with_capacity(num_tables),
        };
        Ok(Self { on_cuda: Some(on_cuda), starts: Vec::new() })
    }

    /// Whether the device has copies of its own.
    pub fn is_uploaded(&self) -> bool {
        self.on_cuda.is_some()
    }

    /// Takes the arrays of a step to the device, in one copy, and enters the changes into each table. Very many changes
    /// go ahead of the arrays. Where the arrays lie depends on their lengths alone.
    pub fn upload(&mut self, device: &Device, upload: &StepUpload) {
        let StepUpload { arrays, changes, taken, sampled } = *upload;
        let (Device::Cuda(cuda), Some(on_cuda)) = (device, &mut self.on_cuda) else { return };
        self.starts.clear();
        let mut start = 0;
        for array in arrays {
            self.starts.push(start);
            start += array.len();
        }
        let mut waiting = changes.iter().map(Vec::len).sum::<usize>();
        let mut remaining: Vec<&[TableChange]> = changes.iter().map(Vec::as_slice).collect();
        while waiting > CHANGES_AT_ONCE {
            waiting -= on_cuda.send(cuda, &[], &mut remaining, &[]);
        }
        on_cuda.send(cuda, arrays, &mut remaining, taken);
        if let Some(sampled) = sampled {
            on_cuda.take(cuda, start, taken.len(), sampled);
        }
    }

    /// Array `index` of the last upload, which holds the numbers of `host`.
    pub fn array<'a>(&'a self, index: usize, host: &'a [u32]) -> Indices<'a> {
        match &self.on_cuda {
            Some(on_cuda) => Indices::with_copy(host, &on_cuda.numbers, self.starts[index]),
            None => host.into(),
        }
    }

    /// Table `index`, whose numbers are those of `host`.
    pub fn table<'a>(&'a self, index: usize, host: &'a [u32]) -> Indices<'a> {
        match &self.on_cuda {
            Some(on_cuda) => Indices::with_copy(host, &on_cuda.tables[index], 0),
            None => host.into(),
        }
    }
}

impl OnCuda {
    /// Sends the arrays, the tokens taken, and as many changes as go at once, and enters those; `remaining` keeps the
    /// others. Returns how many went.
    fn send(
        &mut self,
        cuda: &CudaDevice,
        arrays: &[&[u32]],
        remaining: &mut [&[TableChange]],
        taken: &[TakenToken],
    ) -> usize {
        self.changes.clear();
        self.changes.extend(taken.iter().flat_map(|taken| [taken.index, taken.row]));
        self.counts.clear();
        let mut room = CHANGES_AT_ONCE;
        for changes in remaining {
            let (now, later) = changes.split_at(changes.len().min(room));
            room -= now.len();
            *changes = later;
            self.counts.push(now.len());
            self.changes.extend(now.iter().flat_map(|change| [change.index, change.block]));
        }
        let pinned = &mut self.pinned[self.next];
        self.next = (self.next + 1) % NUM_PINNED;
        let all = arrays.iter().copied().chain([self.changes.as_slice()]);
        pinned.send(all, self.numbers.cuda_buffer().expect("allocated on the GPU"));
        let num_numbers: usize = arrays.iter().map(|array| array.len()).sum();
        self.enter(cuda, num_numbers + 2 * taken.len());
        CHANGES_AT_ONCE - room
    }

    /// Writes sampled tokens into the first array; the pairs lie behind `start` numbers.
    fn take(&self, cuda: &CudaDevice, start: usize, count: usize, sampled: &Tensor) {
        let numbers = self.numbers.view().pointer();
        let pairs = numbers.add(start * DType::U32.size());
        let grid = Grid::new(count.div_ceil(THREADS), THREADS);
        let sampled = sampled.view().pointer();
        let arguments = [numbers.into(), sampled.into(), pairs.into(), count.into()];
        cuda.launch("take_tokens", grid, &arguments);
    }

    /// The changes lie behind `start` numbers.
    fn enter(&self, cuda: &CudaDevice, mut start: usize) {
        for (table, &count) in self.tables.iter().zip(&self.counts) {
            let Pointer(numbers) = self.numbers.view().pointer();
            let pairs = Pointer(numbers + (start * DType::U32.size()) as u64);
            let grid = Grid::new(count.div_ceil(THREADS), THREADS);
            let table = table.view().pointer();
            cuda.launch("enter_blocks", grid, &[table.into(), pairs.into(), count.into()]);
            start += 2 * count;
        }
    }
}
