// IQ4_NL: scale · entry, groups of 32.
#include "iq4_nl.cuh"

LINEAR_KERNELS(iq4_nl, TableCodes<Iq4NlTable>, HalfScales);
