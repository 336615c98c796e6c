// Q4_K: scale · (code of 4 bits) + minimum, groups of 32.
#include "quantized.cuh"

LINEAR_KERNELS(q4_k, PlainCodes<4, 0, 0>, UnsignedAndMinimumScales);
