// IQ4_XS: scale · entry, groups of 32, with the table of IQ4_NL.
#include "iq4_nl.cuh"

LINEAR_KERNELS(iq4_xs, TableCodes<Iq4NlTable>, SignedScales<8>);
