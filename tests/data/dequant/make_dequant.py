"""Writes the golden files of dequantization, one `<format>.bin` a weight format, beside this script.

    python -m venv venv && venv/bin/pip install gguf numpy && venv/bin/python make_dequant.py

A file is the blocks (bytes as in GGUF), then what gguf.quants.dequantize makes of them (float32, little endian); Q1_0 and
Q2_0, which the package does not have, are computed here.
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
    "IQ1_S": [0], "IQ1_M": [], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0],
    "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [], "NVFP4": [], "TQ1_0": [52], "TQ2_0": [64], "Q1_0": [0], "Q2_0": [0],
}
# Largest, smallest normal, largest and smallest subnormal, zero, one; each with both signs.
SCALES = [0x7BFF, 0x0400, 0x03FF, 0x0001, 0x0000, 0x3C00]
SCALES += [0x8000 | scale for scale in SCALES]


# What the package does not have: elements and bytes of a block, bits of a number, what is subtracted and the step.
OTHERS = {"Q1_0": (128, 18, 1, 0.5, 2), "Q2_0": (64, 18, 2, 1, 1)}


def dequantize_other(blocks, bits, offset, step):
    """f16 d, then numbers of some bits, lowest first: d * (q - offset) * step."""
    numbers = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").reshape(len(blocks), -1, bits)
    numbers = (numbers * (1 << np.arange(bits))).sum(axis=2)
    return blocks[:, :2].copy().view(np.float16).astype(np.float32) * ((numbers - offset) * step).astype(np.float32)


def spread_halves(blocks, halves):
    """Puts float16 scales where IQ1_M has them: a nibble above each of four 16-bit numbers."""
    for quarter in range(4):
        at = 49 + 2 * quarter
        blocks[:, at] = blocks[:, at] & 15 | (halves >> (4 * quarter) & 15) << 4


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
        kind = None if name in OTHERS else GGMLQuantizationType[name]
        elements, size = OTHERS[name][:2] if name in OTHERS else GGML_QUANT_SIZES[kind]
        # Seeded by name, so that a new format leaves the other files as they are.
        rng = np.random.default_rng(list(name.encode()))
        blocks = make_blocks(rng, offsets, elements, size)
        if name == "MXFP4":
            blocks[:8, 0] = [0, 1, 2, 3, 126, 127, 254, 255]
        if name == "IQ1_M":
            halves = rng.integers(0, 0x7C00, len(blocks)) | rng.integers(0, 2, len(blocks)) << 15
            halves[-len(SCALES) :] = SCALES
            spread_halves(blocks, halves)
        if elements == 1:
            blocks = np.concatenate([make_blocks(rng, offsets, elements, size) for _ in range(8)])
            values = blocks.view("<u4" if name == "F32" else "<u2")
            # Infinite and NaN are left out: which NaN comes out is not defined.
            exponent = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}[name]
            blocks = blocks[((values & exponent) != exponent)[:, 0]]
        with np.errstate(over="ignore"):
            if name in OTHERS:
                expected = dequantize_other(blocks, *OTHERS[name][2:]).astype("<f4")
            else:
                expected = quants.dequantize(blocks, kind).astype("<f4")
        assert not np.isnan(expected).any(), name
        (here / f"{name.lower()}.bin").write_bytes(blocks.tobytes() + expected.tobytes())


if __name__ == "__main__":
    main()
