//! `expert_linear` on a GPU: a block has 16 features of an expert and some of its rows. Whose, it reads from the list that
//! `route_experts` left there, so the host waits for nothing, and the launch can be recorded.

use super::LinearError;
use super::cuda::{LinearArgs, THREADS, WARP_WEIGHTS, WARPS, int};
use super::cuda_weight::CudaPart;
use super::device_layout::TILE;
use super::experts::ExpertWeights;
use super::weight::LinearWeight;
use crate::cuda::{Argument, CudaDevice, DeviceBuffer, Grid, Pointer, Structure, bytes_of};
use crate::route_experts::ExpertRouting;
use crate::tensor::{DType, View, ViewMut};

/// Rows of a tile that the kernels of `many_rows.cuh` take, and what they leave between rows in shared memory at most.
const MANY_ROWS: usize = 64;
const MOST_PAD_BYTES: usize = 64;

/// As in `experts.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct ExpertWeight {
    weight: Pointer,
    scales: Pointer,
    factor: f32,
    pad: i32,
}

// SAFETY: two addresses, then two numbers of 32 bits, as in the source.
unsafe impl Structure for ExpertWeight {}

/// Of an expert whose weight has another format.
const NONE: ExpertWeight =
    ExpertWeight { weight: Pointer::NULL, scales: Pointer::NULL, factor: 0.0, pad: 0 };

/// As in `experts.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
struct ExpertArgs {
    tiles: Pointer,
    starts: Pointer,
    rows: Pointer,
    weights: Pointer,
    bias_stride: i32,
    pad: i32,
}

// SAFETY: four addresses, then two numbers of 32 bits, as in the source.
unsafe impl Structure for ExpertArgs {}

/// Features that one launch computes, of all experts that have them in one format.
pub(super) struct ExpertTable {
    first: usize,
    features: usize,
    /// What the names of the format's kernels end in.
    name: &'static str,
    /// An `ExpertWeight` of each expert.
    weights: DeviceBuffer,
}

impl std::fmt::Debug for ExpertTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExpertTable({} features of {} from {})", self.features, self.name, self.first)
    }
}

/// First feature, features and format.
type PartKey = (usize, usize, &'static str);

/// The tables of experts of one shape, whose parts may differ. All weights move into one allocation.
pub(super) fn tables(experts: &mut [LinearWeight]) -> Result<Vec<ExpertTable>, LinearError> {
    let (out_features, in_features) = (experts[0].out_features(), experts[0].in_features());
    let short = |_| LinearError::OutOfMemory { out_features, in_features };
    let parts = experts.iter_mut().flat_map(LinearWeight::cuda_parts_mut);
    let buffers: Vec<&mut DeviceBuffer> = parts.flat_map(CudaPart::buffers_mut).collect();
    let together = DeviceBuffer::in_one(&buffers).map_err(short)?;
    buffers.into_iter().zip(together).for_each(|(buffer, moved)| *buffer = moved);

    let mut found: Vec<(PartKey, Vec<ExpertWeight>)> = Vec::new();
    for (index, expert) in experts.iter().enumerate() {
        let mut first = 0;
        for part in expert.cuda_parts() {
            let (name, weight) = of_part(part);
            let key = (first, part.features(), name);
            let table = found.iter().position(|(other, _)| *other == key).unwrap_or_else(|| {
                found.push((key, vec![NONE; experts.len()]));
                found.len() - 1
            });
            found[table].1[index] = weight;
            first += part.features();
        }
    }
    let buffer = experts[0].cuda_parts_mut().next().expect("an expert has parts");
    let buffer = buffer.buffers_mut().remove(0);
    let load = |((first, features, name), weights): (PartKey, Vec<ExpertWeight>)| {
        let bytes = bytes_of(&weights);
        let table = buffer.beside(bytes.len());
        let table = table.map_err(short)?;
        table.write(0, bytes);
        Ok(ExpertTable { first, features, name, weights: table })
    };
    found.into_iter().map(load).collect()
}

fn of_part(part: &CudaPart) -> (&'static str, ExpertWeight) {
    match part {
        CudaPart::Dense(rows) => {
            ("bf16", ExpertWeight { weight: rows.view().pointer(), factor: 1.0, ..NONE })
        }
        CudaPart::Quantized(part) => {
            let (weight, scales) = (part.codes.pointer(), part.scales.pointer());
            (part.layout.name, ExpertWeight { weight, scales, factor: part.factor, pad: 0 })
        }
    }
}

/// `of_step`: the rows of x are the step's, not the places'.
pub(super) fn expert_linear(
    cuda: &CudaDevice,
    out: &ViewMut,
    x: &View,
    of_step: bool,
    weights: &ExpertWeights,
    routing: &ExpertRouting,
) {
    let on_device = routing.on_cuda();
    let bias = weights.all_biases().map(|bias| bias.view().pointer());
    for table in weights.tables() {
        // What a lane loads at once.
        let alignment = if table.name == "bf16" { 16 } else { 8 };
        let is_aligned = x.is_aligned_to(alignment) && (2 * x.cols()).is_multiple_of(alignment);
        assert!(is_aligned, "experts over rows of {} numbers", x.cols());
        let args = LinearArgs {
            out: out.pointer().add(table.first * out.dtype().size()),
            x: x.pointer(),
            weight: Pointer::NULL,
            scales: Pointer::NULL,
            bias: bias.map_or(Pointer::NULL, |bias| bias.add(table.first * DType::BF16.size())),
            rows: 0,
            in_features: int(x.cols()),
            out_features: int(table.features),
            x_stride: int(x.row_stride()),
            out_stride: int(out.row_stride()),
            out_is_f32: 0,
            factor: 1.0,
            clears: 0,
        };
        let experts = ExpertArgs {
            tiles: on_device.tiles,
            starts: on_device.starts,
            rows: if of_step { on_device.rows } else { Pointer::NULL },
            weights: table.weights.pointer(),
            bias_stride: int(weights.out_features()),
            pad: 0,
        };
        // Features and shared memory of a block.
        let (features, shared_bytes) = match on_device.tile_rows {
            MANY_ROWS => (TILE * WARPS, 2 * MANY_ROWS * (2 * WARP_WEIGHTS + MOST_PAD_BYTES)),
            _ => (TILE, 0),
        };
        let blocks = [on_device.most_tiles, table.features.div_ceil(features), 1];
        let grid = Grid { blocks, threads: THREADS, shared_bytes };
        let kernel = format!("expert_linear_{}_{}", table.name, on_device.tile_rows);
        cuda.launch(&kernel, grid, &[Argument::structure(&args), Argument::structure(&experts)]);
    }
}
