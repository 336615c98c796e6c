// enter_blocks: table[index] = block for each change of a block table.
#include "prims.cuh"

extern "C" __global__ void __launch_bounds__(256) enter_blocks(unsigned* table, const unsigned* changes, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) table[changes[2 * i]] = changes[2 * i + 1];
}
KERNEL_EXPORT(enter_blocks);
