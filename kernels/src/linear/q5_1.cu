// Q5_1: scale · (code of 5 bits) + minimum, groups of 32.
#include "quantized.cuh"

LINEAR_KERNELS(q5_1, PlainCodes<4, 1, 0>, HalfAndMinimumScales);
