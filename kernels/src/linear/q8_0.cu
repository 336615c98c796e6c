// Q8_0: scale · signed byte, groups of 32.
#include "quantized.cuh"

LINEAR_KERNELS(q8_0, ByteCodes, HalfScales);
