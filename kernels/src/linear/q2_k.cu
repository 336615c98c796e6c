// Q2_K: scale · (code of 2 bits) + minimum, groups of 16.
#include "quantized.cuh"

LINEAR_KERNELS(q2_k, PlainCodes<2, 0, 0>, NibblesAndMinimumScales);
