// take_tokens: ids[index] = sampled[row] for each token that a step before this one sampled.
#include "prims.cuh"

extern "C" __global__ void __launch_bounds__(256)
    take_tokens(unsigned* ids, const unsigned* sampled, const unsigned* taken, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) ids[taken[2 * i]] = sampled[taken[2 * i + 1]];
}
KERNEL_EXPORT(take_tokens);
