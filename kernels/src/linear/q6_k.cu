// Q6_K: scale · (code of 6 bits - 32), groups of 16.
#include "quantized.cuh"

LINEAR_KERNELS(q6_k, PlainCodes<4, 2, 32>, SignedScales<16>);
