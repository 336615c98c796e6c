// Q3_K: scale · (code of 3 bits - 4), groups of 16.
#include "quantized.cuh"

LINEAR_KERNELS(q3_k, PlainCodes<2, 1, 4>, SignedScales<16>);
