// Q5_K: scale · (code of 5 bits) + minimum, groups of 32.
#include "quantized.cuh"

LINEAR_KERNELS(q5_k, PlainCodes<4, 1, 0>, UnsignedAndMinimumScales);
