// Q4_0: scale · (code of 4 bits - 8), groups of 32.
#include "quantized.cuh"

LINEAR_KERNELS(q4_0, PlainCodes<4, 0, 8>, HalfScales);
