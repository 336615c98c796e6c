//! LinearWeight: a weight matrix in memory, stacked from parts that each have their own format.

use std::ops::Range;

use super::cuda_weight::CudaPart;
use super::format::{WeightFormat, dequantize_with};
use super::packed::{ActivationPrecision, HALVES, PackedWeight, takes_halves};
use crate::cpu::{SimdLevel, prefetch_lines, share};
use crate::device::{CpuDevice, Device};
use crate::float8::scale_float8;
use crate::mapped_file::FileBytes;
use crate::tensor::{DType, Tensor};

/// Bytes of the next weight that a thread asks for while it waits: a quarter of a second-level cache.
const BYTES_READ_AHEAD: usize = 256 << 10;

/// Bytes of a file that are copied before their pages are given back: what a load takes beside the weights.
const BYTES_IN_FLIGHT: usize = 8 << 20;

/// Bytes that a task copies when nothing else divides them.
const BYTES_PER_COPY: usize = 128 << 10;

/// How weights are kept in memory: the flag `--weights`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightPolicy {
    /// Quantized as in the file, packed for integer dot products. Floats stay as they are.
    #[default]
    Packed,
    /// The same, but floats of 16 bits are packed for dot products of BF16 where the machine has them.
    PackedHalves,
    /// Dequantized at load: the most memory.
    Float32,
}

/// Why bytes are not a weight matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinearError {
    /// A row is not a whole number of blocks, or has none.
    Blocks { format: WeightFormat, in_features: usize },
    /// The data is longer or shorter than the shape says.
    Length {
        format: WeightFormat,
        out_features: usize,
        in_features: usize,
        expected: usize,
        actual: usize,
    },
    /// Numbers, scales and zeros of a grouped weight do not fit together, or cannot be packed.
    Groups(String),
    /// The shape overflows, or memory is short.
    OutOfMemory { out_features: usize, in_features: usize },
}

impl std::fmt::Display for LinearError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blocks { format, in_features } => {
                let block = format.block_elements();
                write!(
                    f,
                    "{format}: a row of {in_features} weights is not a whole number of blocks of {block}"
                )
            }
            Self::Length { format, out_features, in_features, expected, actual } => write!(
                f,
                "{format} {out_features}x{in_features} takes {expected} bytes, the data has {actual}"
            ),
            Self::Groups(problem) => f.write_str(problem),
            Self::OutOfMemory { out_features, in_features } => {
                write!(f, "cannot allocate a weight of {out_features}x{in_features}")
            }
        }
    }
}

impl std::error::Error for LinearError {}

/// A weight `[out_features, in_features]`, stacked from parts along `out_features` (q|k|v, gate|up).
#[derive(Debug)]
pub struct LinearWeight {
    parts: Vec<Part>,
    out_features: usize,
    in_features: usize,
    /// Where the tiles of the weight lie that is used next.
    next: Vec<TileSpan>,
}

/// Tiles that lie one after the other: an address that is never read through, so it may outlive the tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileSpan {
    pub address: usize,
    pub tile_bytes: usize,
    pub num_tiles: usize,
}

#[derive(Debug)]
pub(super) enum Part {
    /// In tiles for integer dot products.
    Packed(PackedWeight),
    /// Floats of any size, row after row.
    Dense(DensePart),
    /// On a GPU.
    Cuda(CudaPart),
}

/// Rows of one format.
#[derive(Debug)]
pub(super) struct DensePart {
    format: DenseFormat,
    /// U8 `[features, row_bytes]`
    rows: Tensor,
    row_bytes: usize,
}

#[derive(Debug)]
enum DenseFormat {
    Blocks(WeightFormat),
    /// E4M3 bytes, and the scale of each block of `shared` features and columns, row by row.
    Float8 {
        scales: Vec<f32>,
        shared: (usize, usize),
    },
}

impl LinearWeight {
    /// Copies `bytes` (a GGUF tensor of this format and shape, rows of `in_features`) into memory of `device`, and gives
    /// back the pages of the file on the way.
    pub fn from_gguf<'a>(
        device: &Device,
        format: WeightFormat,
        bytes: impl Into<FileBytes<'a>>,
        out_features: usize,
        in_features: usize,
        policy: WeightPolicy,
    ) -> Result<Self, LinearError> {
        let columns = &(0..in_features);
        Self::from_columns(device, format, bytes, out_features, (in_features, columns), policy)
    }

    /// The same of rows of `row_len`, of which only `columns` are kept: they may begin and end inside of blocks, on the CPU and
    /// at multiples of 64 alone.
    pub fn from_columns<'a>(
        device: &Device,
        format: WeightFormat,
        bytes: impl Into<FileBytes<'a>>,
        out_features: usize,
        (row_len, columns): (usize, &Range<usize>),
        policy: WeightPolicy,
    ) -> Result<Self, LinearError> {
        let (bytes, in_features) = (bytes.into(), columns.len());
        let overflow = LinearError::OutOfMemory { out_features, in_features };
        let row_bytes = format.row_bytes(row_len).filter(|&bytes| bytes > 0);
        let is_whole = *columns == (0..row_len);
        let is_packed = matches!(device, Device::Cpu(_)) && format.packing().is_some();
        let is_kept = columns.start < format.block_elements() && columns.end <= row_len;
        let can_cut = is_packed && is_kept && columns.start.is_multiple_of(64);
        let row_bytes = row_bytes.filter(|_| is_whole || can_cut);
        let row_bytes = row_bytes.ok_or(LinearError::Blocks { format, in_features })?;
        let expected = row_bytes.checked_mul(out_features).ok_or(overflow.clone())?;
        if bytes.len() != expected {
            let actual = bytes.len();
            return Err(LinearError::Length {
                format,
                out_features,
                in_features,
                expected,
                actual,
            });
        }
        let cpu = match device {
            Device::Cpu(cpu) => cpu,
            Device::Cuda(cuda) => {
                let shape = (out_features, in_features);
                let part = CudaPart::load(cuda, format, bytes, shape, policy)?;
                return Ok(Self::of_parts(vec![Part::Cuda(part)], out_features, in_features));
            }
            Device::Trace(_) => return Ok(Self::shape_only(out_features, in_features)),
        };
        let has_dots = cpu.simd == SimdLevel::Avx512Bf16;
        let part = match (policy, format.packing()) {
            (WeightPolicy::PackedHalves, None) if has_dots && takes_halves(format) => {
                let part = PackedWeight::pack(cpu, format, HALVES, bytes, (row_len, columns));
                part.map(Part::Packed)
            }
            (WeightPolicy::Float32, _) => {
                let rows = (row_len, row_bytes);
                DensePart::float32(cpu, format, bytes, rows, columns).map(Part::Dense)
            }
            (_, Some(packing)) => {
                let part = PackedWeight::pack(cpu, format, packing, bytes, (row_len, columns));
                part.map(Part::Packed)
            }
            (_, None) => DensePart::copy(cpu, format, bytes, row_bytes).map(Part::Dense),
        };
        Ok(Self::of_parts(vec![part.ok_or(overflow)?], out_features, in_features))
    }

    pub(super) fn of_parts(parts: Vec<Part>, out_features: usize, in_features: usize) -> Self {
        Self { parts, out_features, in_features, next: Vec::new() }
    }

    /// The same weight with another precision of the rows it is multiplied with. Parts that are floats ignore it.
    pub fn with_activations(mut self, activations: ActivationPrecision) -> Self {
        for part in &mut self.parts {
            if let Part::Packed(part) = part
                && part.activations != ActivationPrecision::Bfloat16
            {
                part.activations = activations;
            }
        }
        self
    }

    /// The same weight times `factor`, which lies beside the tensor in its file. Weights that are kept as half floats have
    /// none.
    pub fn with_factor(mut self, factor: f32) -> Self {
        for part in &mut self.parts {
            match part {
                Part::Packed(part) => {
                    assert!(part.has_scales(), "a factor needs scales");
                    part.factor *= factor;
                }
                Part::Dense(part) => {
                    let is_float32 = matches!(part.format, DenseFormat::Blocks(WeightFormat::F32));
                    assert!(is_float32, "a factor needs float32");
                    part.rows.f32_mut().iter_mut().for_each(|weight| *weight *= factor);
                }
                Part::Cuda(part) => part.scale_by(factor),
            }
        }
        self
    }

    /// One matrix from several with the same `in_features`: the first part's features come first. Each keeps its format
    /// and its precision of activations.
    pub fn stack(parts: Vec<Self>) -> Self {
        let in_features = parts.first().expect("a stack has parts").in_features;
        assert!(parts.iter().all(|part| part.in_features == in_features), "in_features differ");
        let out_features = parts.iter().map(|part| part.out_features).sum();
        let mut joined: Vec<Part> = Vec::new();
        for part in parts.into_iter().flat_map(|part| part.parts) {
            // On a GPU one launch computes neighbours of one format.
            if let (Some(Part::Cuda(last)), Part::Cuda(part)) = (joined.last_mut(), &part)
                && let Some(both) = last.joined(part)
            {
                *last = both;
            } else {
                joined.push(part);
            }
        }
        Self::of_parts(joined, out_features, in_features)
    }

    /// A shape without memory, for `Device::Trace`.
    pub fn shape_only(out_features: usize, in_features: usize) -> Self {
        Self::of_parts(Vec::new(), out_features, in_features)
    }

    /// Says that `next` is multiplied with after this weight: threads that wait for others read it ahead.
    pub fn set_next(&mut self, next: &Self) {
        let span = |part: &Part| match part {
            Part::Packed(part) => Some(part.span()),
            Part::Dense(_) | Part::Cuda(_) => None,
        };
        self.next = next.parts.iter().filter_map(span).collect();
    }

    /// The beginning of what thread `thread` of `num_threads` will read of the next weight.
    pub(super) fn next_share(&self, thread: usize, num_threads: usize) -> Range<*const u8> {
        let num_tiles = self.next.iter().map(|span| span.num_tiles).sum();
        let mut tiles = share(thread, num_threads, num_tiles);
        for span in &self.next {
            if tiles.start < span.num_tiles {
                let address = |tile| span.address + tile * span.tile_bytes;
                let start = address(tiles.start);
                let end = address(tiles.end.min(span.num_tiles)).min(start + BYTES_READ_AHEAD);
                return std::ptr::without_provenance(start)..std::ptr::without_provenance(end);
            }
            tiles = tiles.start - span.num_tiles..tiles.end - span.num_tiles;
        }
        std::ptr::null()..std::ptr::null()
    }

    /// Whether weights along k lie in an order of their own.
    pub(super) fn has_order(&self) -> bool {
        self.orders().any(|order| order.is_some())
    }

    /// Whether all packed parts have their weights along k in the same order: `expert_linear` knows one for each expert.
    pub fn has_one_order(&self) -> bool {
        let mut orders = self.orders();
        let first = orders.next();
        orders.all(|order| Some(order) == first)
    }

    /// Which k comes where in an expert's packed weights, when it is not the order of x.
    pub(super) fn order(&self) -> Option<&[u32]> {
        self.orders().next().flatten()
    }

    fn orders(&self) -> impl Iterator<Item = Option<&[u32]>> {
        self.parts.iter().filter_map(|part| match part {
            Part::Packed(part) => Some(part.order.as_deref()),
            Part::Dense(_) | Part::Cuda(_) => None,
        })
    }

    pub fn out_features(&self) -> usize {
        self.out_features
    }

    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Bytes this weight occupies.
    pub fn num_bytes(&self) -> usize {
        self.parts.iter().map(Part::num_bytes).sum()
    }

    pub(super) fn parts(&self) -> &[Part] {
        assert!(
            self.parts.iter().map(Part::features).sum::<usize>() == self.out_features,
            "only traced ops touch weights without memory"
        );
        &self.parts
    }

    pub(super) fn is_on_cuda(&self) -> bool {
        matches!(self.parts.first(), Some(Part::Cuda(_)))
    }

    /// The parts of a weight on a GPU.
    pub(super) fn cuda_parts(&self) -> impl Iterator<Item = &CudaPart> {
        self.parts().iter().map(|part| match part {
            Part::Cuda(part) => part,
            _ => panic!("a weight in host memory was given to a GPU"),
        })
    }

    pub(super) fn cuda_parts_mut(&mut self) -> impl Iterator<Item = &mut CudaPart> {
        self.parts.iter_mut().map(|part| match part {
            Part::Cuda(part) => part,
            _ => panic!("a weight in host memory was given to a GPU"),
        })
    }

    /// The weights of one output feature as float32; `out` has `in_features` elements.
    pub(crate) fn dequantize_feature(&self, simd: SimdLevel, feature: usize, out: &mut [f32]) {
        let mut local = feature;
        for part in self.parts() {
            if local < part.features() {
                return part.dequantize(simd, local, out);
            }
            local -= part.features();
        }
        panic!("feature {feature} of {}", self.out_features);
    }
}

impl Part {
    pub(super) fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    pub(super) fn features(&self) -> usize {
        match self {
            Self::Packed(part) => part.features(),
            Self::Dense(part) => part.features(),
            Self::Cuda(part) => part.features(),
        }
    }

    fn num_bytes(&self) -> usize {
        match self {
            Self::Packed(part) => part.num_bytes(),
            Self::Dense(part) => part.rows.num_bytes(),
            Self::Cuda(part) => part.num_bytes(),
        }
    }

    fn dequantize(&self, simd: SimdLevel, feature: usize, out: &mut [f32]) {
        match self {
            Self::Packed(part) => part.dequantize(simd, feature, out),
            Self::Dense(part) => part.dequantize(simd, feature, out),
            Self::Cuda(part) => panic!("{part:?} is on a GPU"),
        }
    }
}

impl DensePart {
    /// `None` when memory is short.
    fn copy(
        cpu: &CpuDevice,
        format: WeightFormat,
        bytes: FileBytes,
        row_bytes: usize,
    ) -> Option<Self> {
        let rows = copy_rows(cpu, bytes, row_bytes)?;
        Some(Self { format: DenseFormat::Blocks(format), rows, row_bytes })
    }

    /// `None` when memory is short.
    fn float32(
        cpu: &CpuDevice,
        format: WeightFormat,
        bytes: FileBytes,
        (row_len, row_bytes): (usize, usize),
        columns: &Range<usize>,
    ) -> Option<Self> {
        let features = bytes.len() / row_bytes;
        let mut rows = Tensor::host(DType::F32, features, columns.len())?;
        let out = rows.view_mut();
        copy_in_parts(cpu, bytes, row_bytes, &|feature, bytes| {
            // SAFETY: each task writes its own row.
            let out = unsafe { out.row_f32_shared(feature) };
            if columns.len() == row_len {
                dequantize_with(cpu.simd, format, bytes, out);
                return;
            }
            let mut row = vec![0.0; row_len];
            dequantize_with(cpu.simd, format, bytes, &mut row);
            out.copy_from_slice(&row[columns.clone()]);
        });
        Some(Self::of_float32(rows))
    }

    /// F32 `[features, in_features]`.
    pub(super) fn of_float32(rows: Tensor) -> Self {
        let row_bytes = 4 * rows.cols();
        Self { format: DenseFormat::Blocks(WeightFormat::F32), rows, row_bytes }
    }

    /// E4M3 rows of `in_features`, with a scale for each `shared` features and columns. `None` when memory is short.
    pub(super) fn float8(
        cpu: &CpuDevice,
        bytes: FileBytes,
        in_features: usize,
        scales: Vec<f32>,
        shared: (usize, usize),
    ) -> Option<Self> {
        let rows = copy_rows(cpu, bytes, in_features)?;
        Some(Self { format: DenseFormat::Float8 { scales, shared }, rows, row_bytes: in_features })
    }

    pub(super) fn features(&self) -> usize {
        self.rows.rows()
    }

    pub(super) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// `out` has `in_features` elements.
    pub(super) fn dequantize(&self, simd: SimdLevel, row: usize, out: &mut [f32]) {
        let bytes = &self.rows.bytes()[row * self.row_bytes..][..self.row_bytes];
        match &self.format {
            DenseFormat::Blocks(format) => dequantize_with(simd, *format, bytes, out),
            DenseFormat::Float8 { scales, shared: (features, columns) } => {
                let groups = bytes.len().div_ceil(*columns);
                let scales = &scales[row / features * groups..][..groups];
                let parts = bytes.chunks(*columns).zip(out.chunks_mut(*columns));
                for ((bytes, out), &scale) in parts.zip(scales) {
                    scale_float8(simd, bytes, scale, out);
                }
            }
        }
    }

    /// Asks for this row to be brought into the cache; a row beyond the last is ignored.
    pub(super) fn prefetch(&self, row: usize) {
        let bytes = self.rows.bytes();
        let end = bytes.len().min((row + 1) * self.row_bytes);
        if let Some(row) = bytes.get(row * self.row_bytes..end) {
            prefetch_lines(row.as_ptr(), row.len());
        }
    }
}

/// U8 `[rows, row_bytes]`. `None` when memory is short.
fn copy_rows(cpu: &CpuDevice, bytes: FileBytes, row_bytes: usize) -> Option<Tensor> {
    let mut rows = Tensor::host(DType::U8, bytes.len() / row_bytes, row_bytes)?;
    let out = rows.view_mut();
    let rows_per_copy = (BYTES_PER_COPY / row_bytes).max(1);
    copy_in_parts(cpu, bytes, rows_per_copy * row_bytes, &|index, bytes| {
        for (row, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
            // SAFETY: each task writes its own rows.
            let out = unsafe { out.row_u8_shared(index * rows_per_copy + row) };
            out.copy_from_slice(bytes);
        }
    });
    Some(rows)
}

/// Calls `copy(i, part)` for each part of `part_bytes` (the last may be shorter), on all threads, and gives back the
/// pages of the file behind it. Each thread copies what it will multiply with: memory lies near who writes it first.
pub(super) fn copy_in_parts(
    cpu: &CpuDevice,
    bytes: FileBytes,
    part_bytes: usize,
    copy: &(dyn Fn(usize, &[u8]) + Sync),
) {
    let num_threads = cpu.pool.num_threads();
    let parts_at_once = (BYTES_IN_FLIGHT / part_bytes / num_threads).max(4);
    let num_parts = bytes.len().div_ceil(part_bytes);
    let largest_share = num_parts.div_ceil(num_threads);
    let bytes_of =
        |parts: Range<usize>| parts.start * part_bytes..bytes.len().min(parts.end * part_bytes);
    for done in (0..largest_share).step_by(parts_at_once) {
        let next = |thread| {
            let share = share(thread, num_threads, num_parts);
            let first = share.end.min(share.start + done);
            first..share.end.min(first + parts_at_once)
        };
        // Shares of these items are the threads' too.
        cpu.pool.run(num_threads * parts_at_once, &|item| {
            let part = next(item / parts_at_once).nth(item % parts_at_once);
            part.into_iter().for_each(|part| copy(part, &bytes[bytes_of(part..part + 1)]));
        });
        for parts in (0..num_threads).map(next).filter(|parts| !parts.is_empty()) {
            bytes.slice(bytes_of(parts)).expect("inside").release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::cases::random_weight_bytes;

    #[test]
    fn each_thread_reads_its_own_share_of_the_next_weight_ahead() {
        let device = Device::cpu(1);
        let load = |features| {
            let (format, k) = (WeightFormat::Q4_1, 256);
            let bytes = random_weight_bytes(format, features, k, 1);
            LinearWeight::from_gguf(&device, format, &bytes, features, k, WeightPolicy::Packed)
                .unwrap()
        };
        let next = LinearWeight::stack(vec![load(64), load(320)]);
        let mut weight = load(32);
        assert!(weight.next_share(0, 1).is_empty(), "nothing follows");
        weight.set_next(&next);
        let tiles: Vec<usize> = next
            .parts
            .iter()
            .flat_map(|part| match part {
                Part::Packed(part) => {
                    let span = part.span();
                    (0..span.num_tiles).map(move |tile| span.address + tile * span.tile_bytes)
                }
                Part::Dense(_) | Part::Cuda(_) => panic!("Q4_1 is packed"),
            })
            .collect();
        for num_threads in 1..6 {
            for thread in 0..num_threads {
                let first = share(thread, num_threads, tiles.len()).start;
                let bytes = weight.next_share(thread, num_threads);
                assert_eq!(bytes.start.addr(), tiles[first], "{thread} of {num_threads}");
                assert!(!bytes.is_empty());
            }
        }
    }
}
