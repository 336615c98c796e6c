#!/usr/bin/env python3
"""Golden logits of a BERT reranker, by plain numpy in float64: writes rerankers.json. Before, hidden states of plain texts are
compared with the golden ones of transformers.

The model is hf/bert with a head of made-up numbers (tests/tests/encoders.rs has the same): pooler.dense, tanh, classifier."""

import json
import math
import pathlib
import struct

import numpy as np

HERE = pathlib.Path(__file__).parent
PAIRS = [([3, 17, 402, 4], [300, 120, 4]), ([3, 9, 4], [77, 5, 210, 333, 12, 8, 4]), ([3, 4], [4])]


def tensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    found = {}
    for name, info in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + at for at in info["data_offsets"])
        if info["dtype"] == "BF16":
            values = (np.frombuffer(data[begin:end], "<u2").astype("<u4") << 16).view("<f4")
        else:
            values = np.frombuffer(data[begin:end], {"F32": "<f4", "I32": "<i4"}[info["dtype"]])
        found[name] = values.reshape(info["shape"])
    return found


def made_up(count, seed):
    """Numbers from -0.25 to 0.25 that float32 holds exactly."""
    numbers = (np.arange(count, dtype=np.uint64) + seed) * 2654435761 % 2**32 >> 8
    return (numbers.astype(np.float64) / 2**24 - 0.5) / 2


class Bert:
    def __init__(self):
        self.w = {name: value.astype(np.float64) for name, value in tensors(HERE / "hf/bert/model.safetensors").items()}
        self.config = json.loads((HERE / "hf/bert/config.json").read_text())

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + self.config["layer_norm_eps"])
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def forward(self, ids, kinds):
        heads = self.config["num_attention_heads"]
        names = ["word", "position", "token_type"]
        rows = [ids, range(len(ids)), kinds]
        x = sum(self.w[f"embeddings.{name}_embeddings.weight"][list(at)] for name, at in zip(names, rows))
        x = self.norm("embeddings.LayerNorm", x)
        for layer in range(self.config["num_hidden_layers"]):
            own = f"encoder.layer.{layer}"
            split = lambda t: t.reshape(len(ids), heads, -1).transpose(1, 0, 2)
            q, k, v = (split(self.linear(f"{own}.attention.self.{part}", x)) for part in ("query", "key", "value"))
            scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            mixed = (weights @ v).transpose(1, 0, 2).reshape(len(ids), -1)
            x = self.norm(f"{own}.attention.output.LayerNorm", x + self.linear(f"{own}.attention.output.dense", mixed))
            inner = self.linear(f"{own}.intermediate.dense", x)
            inner = inner / 2 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
            x = self.norm(f"{own}.output.LayerNorm", x + self.linear(f"{own}.output.dense", inner))
        return x

    def logit(self, first, second):
        row = self.forward(first + second, [0] * len(first) + [1] * len(second))[0]
        size = len(row)
        row = np.tanh(made_up(size * size, 1).reshape(size, size) @ row + made_up(size, 2))
        return made_up(size, 3) @ row + made_up(1, 4)[0]


def main():
    bert, golden = Bert(), tensors(HERE / "bert.safetensors")
    for prompt in ("p0", "p1", "p2"):
        ids = [int(token) for token in golden[f"{prompt}.input_ids"].flatten()]
        distance = abs(bert.forward(ids, [0] * len(ids)) - golden[f"{prompt}.last_hidden"]).max()
        assert distance < 1e-4, (prompt, distance)
    pairs = [{"first": first, "second": second, "logit": bert.logit(first, second)} for first, second in PAIRS]
    (HERE / "rerankers.json").write_text(json.dumps(pairs) + "\n")


main()
