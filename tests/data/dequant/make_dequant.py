"""Writes the golden files of dequantization, one `<format>.bin` a weight format, beside this script.

    python -m venv venv && venv/bin/pip install gguf numpy && venv/bin/python make_dequant.py

A file is the blocks (bytes as in GGUF), then what gguf.quants.dequantize makes of them (float32, little endian).
Blocks are random, then: zero, all bits set, sign bits only, and random with extreme, subnormal, negative and zero
scales. A float16 scale that would be infinite or NaN is made finite, since such blocks are no weights.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

# Format: offsets of its float16 fields. Plain floats have none.
FORMATS = {
    "F32": [], "F16": [0], "BF16": [],
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [],
}
# Largest, smallest normal, largest and smallest subnormal, zero, one; each with both signs.
SCALES = [0x7BFF, 0x0400, 0x03FF, 0x0001, 0x0000, 0x3C00]
SCALES += [0x8000 | scale for scale in SCALES]


def make_blocks(rng, offsets, elements, size):
    num_random = 8 if elements == 256 else 32
    blocks = rng.integers(0, 256, (num_random + 3 + len(SCALES), size), dtype=np.uint8)
    blocks[num_random : num_random + 3] = [[0x00], [0xFF], [0x80]]
    for offset in offsets:
        field = blocks[:, offset : offset + 2].copy().view("<u2")
        field[num_random + 3 :, 0] = rng.permutation(SCALES)
        not_finite = (field & 0x7C00) == 0x7C00
        field[not_finite] &= 0xBFFF
        blocks[:, offset : offset + 2] = field.view(np.uint8)
    return blocks


def main():
    here = Path(__file__).parent
    for name, offsets in FORMATS.items():
        kind = GGMLQuantizationType[name]
        elements, size = GGML_QUANT_SIZES[kind]
        # Seeded by name, so that a new format leaves the other files as they are.
        rng = np.random.default_rng(list(name.encode()))
        blocks = make_blocks(rng, offsets, elements, size)
        if name == "MXFP4":
            blocks[:8, 0] = [0, 1, 2, 3, 126, 127, 254, 255]
        if elements == 1:
            blocks = np.concatenate([make_blocks(rng, offsets, elements, size) for _ in range(8)])
            values = blocks.view("<u4" if name == "F32" else "<u2")
            # Infinite and NaN are left out: which NaN comes out is not defined.
            exponent = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}[name]
            blocks = blocks[((values & exponent) != exponent)[:, 0]]
        with np.errstate(over="ignore"):
            expected = quants.dequantize(blocks, kind).astype("<f4")
        assert not np.isnan(expected).any(), name
        (here / f"{name.lower()}.bin").write_bytes(blocks.tobytes() + expected.tobytes())


if __name__ == "__main__":
    main()
