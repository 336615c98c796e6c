// CUDA C++ for a host compiler: kernels run as fibers, with every mistake that a GPU would let pass made visible.
//
// Kernels reach it through prims.cuh. What it does not model: time, weak memory ordering, clusters, coalescing, bank
// conflicts other than those of ldmatrix.
#pragma once
#include "atomics.h"
#include "barriers.h"
#include "copies.h"
#include "intrinsics.h"
#include "launch.h"
#include "matrix.h"
#include "mbarrier.h"
#include "tma.h"
#include "types.h"
#include "warp.h"
#include "wgmma.h"
