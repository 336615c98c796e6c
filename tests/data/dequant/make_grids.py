"""Writes kernels/src/linear/iq_grids.bin: the codebooks of the IQ formats, as the gguf package (PyPI) has them.

    python -m venv venv && venv/bin/pip install gguf numpy && venv/bin/python make_grids.py

An entry of a codebook is 16 bits, little endian: eight fields of 2 bits, or of the IQ3 formats four of 3 bits, first
field lowest. The order of the codebooks is that of GRIDS.
"""

from pathlib import Path

import numpy as np
from gguf import quants

GRIDS = [quants.IQ2_XXS, quants.IQ2_XS, quants.IQ2_S, quants.IQ3_XXS, quants.IQ3_S, quants.IQ1_S]


def entries(kind):
    kind.init_grid()
    values = kind.grid.reshape(kind.grid_shape).astype(int)
    fields = np.searchsorted(kind.grid_map, values)
    bits = 3 if kind.grid_shape[1] == 4 else 2
    return (fields << bits * np.arange(kind.grid_shape[1])).sum(axis=1).astype("<u2")


target = Path(__file__).parent / "../../../kernels/src/linear/iq_grids.bin"
target.write_bytes(b"".join(entries(kind).tobytes() for kind in GRIDS))
