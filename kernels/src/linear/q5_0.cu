// Q5_0: scale · (code of 5 bits - 16), groups of 32.
#include "quantized.cuh"

LINEAR_KERNELS(q5_0, PlainCodes<4, 1, 16>, HalfScales);
