//! `route_experts` on a GPU: a warp a row chooses, then a block an expert sorts. Nothing of it comes back to the host.

use super::{ExpertRouting, RouteExperts, RouterScores};
use crate::cuda::{Argument, CudaDevice, Grid, Pointer, Structure};
use crate::tensor::{Tensor, View};

/// Rows of one expert that a block of `expert_linear` can have: which number changes no bit.
pub(super) const TILE_ROWS: [usize; 3] = [8, 16, 64];

/// Threads of `sort_experts`.
const SORT_THREADS: usize = 256;

/// As in `route_rows.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct RouteArgs {
    logits: Pointer,
    choice_bias: Pointer,
    expert_scales: Pointer,
    experts: Pointer,
    weights: Pointer,
    num_experts: i32,
    num_chosen: i32,
    logits_stride: i32,
    num_groups: i32,
    chosen_groups: i32,
    is_sigmoid: i32,
    normalises: i32,
    scale: f32,
}

// SAFETY: five addresses, then eight numbers of 32 bits, as in the source.
unsafe impl Structure for RouteArgs {}

/// As in `sort_experts.cu`.
#[derive(Clone, Copy)]
#[repr(C)]
struct SortArgs {
    experts: Pointer,
    places: Pointer,
    rows: Pointer,
    starts: Pointer,
    tiles: Pointer,
    num_places: i32,
    num_chosen: i32,
    num_experts: i32,
    tile_rows: i32,
}

// SAFETY: five addresses, then four numbers of 32 bits, as in the source.
unsafe impl Structure for SortArgs {}

/// What the kernels of other ops read of a routing.
pub(crate) struct OnCuda {
    pub places: Pointer,
    pub weights: Pointer,
    pub starts: Pointer,
    pub rows: Pointer,
    pub tiles: Pointer,
    pub tile_rows: usize,
    /// Tiles that there can be; only the GPU knows how many there are.
    pub most_tiles: usize,
}

impl ExpertRouting {
    pub(crate) fn on_cuda(&self) -> OnCuda {
        let (tile_rows, num_places) = (tile_rows(self), self.num_places());
        OnCuda {
            places: self.places.view().pointer(),
            weights: self.weights.view().pointer(),
            starts: self.starts.view().pointer(),
            rows: self.rows.view().pointer(),
            tiles: self.tiles.view().pointer(),
            tile_rows,
            // Each expert's last tile may have gaps.
            most_tiles: num_places.min(num_places / tile_rows + self.num_experts),
        }
    }
}

/// 8 while experts have few rows each, 64 where they have many.
fn tile_rows(routing: &ExpertRouting) -> usize {
    let [few, some, many] = TILE_ROWS;
    match routing.num_places() / routing.num_experts {
        rows if rows <= few / 2 => few,
        rows if rows <= many / 2 => some,
        _ => many,
    }
}

pub(super) fn route_experts(
    cuda: &CudaDevice,
    routing: &ExpertRouting,
    logits: &View,
    args: &RouteExperts,
) {
    let spec = args.spec;
    let pointer =
        |vector: Option<&Tensor>| vector.map_or(Pointer::NULL, |vector| vector.view().pointer());
    let on_device = routing.on_cuda();
    let experts = routing.experts.view().pointer();
    let route = RouteArgs {
        logits: logits.pointer(),
        choice_bias: pointer(args.choice_bias),
        expert_scales: pointer(args.expert_scales),
        experts,
        weights: on_device.weights,
        num_experts: int(spec.num_experts),
        num_chosen: int(spec.num_chosen),
        logits_stride: int(logits.row_stride()),
        num_groups: spec.groups.map_or(0, |groups| int(groups.num_groups)),
        chosen_groups: spec.groups.map_or(0, |groups| int(groups.num_chosen)),
        is_sigmoid: i32::from(spec.scores == RouterScores::Sigmoid),
        normalises: i32::from(spec.normalises),
        scale: spec.scale,
    };
    // A key, a score and a number for a group.
    let shared_bytes = (8 + 4 + 4) * spec.num_experts;
    let grid = Grid { blocks: [logits.rows(), 1, 1], threads: 32, shared_bytes };
    cuda.launch("route_rows", grid, &[Argument::structure(&route)]);
    let sort = SortArgs {
        experts,
        places: on_device.places,
        rows: on_device.rows,
        starts: on_device.starts,
        tiles: on_device.tiles,
        num_places: int(routing.num_places()),
        num_chosen: int(spec.num_chosen),
        num_experts: int(spec.num_experts),
        tile_rows: int(on_device.tile_rows),
    };
    let (blocks, shared_bytes) = ([spec.num_experts, 1, 1], 4 * spec.num_experts);
    let grid = Grid { blocks, threads: SORT_THREADS, shared_bytes };
    cuda.launch("sort_experts", grid, &[Argument::structure(&sort)]);
}

fn int(number: usize) -> i32 {
    i32::try_from(number).expect("sizes of a routing fit an int")
}
