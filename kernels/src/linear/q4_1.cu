// Q4_1: scale · (code of 4 bits) + minimum, groups of 32.
#include "quantized.cuh"

LINEAR_KERNELS(q4_1, PlainCodes<4, 0, 0>, HalfAndMinimumScales);
