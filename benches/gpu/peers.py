"""Times PyTorch at the shapes of `gpu kernels` and `gpu steps`: cuBLAS products, SDPA, transformers' eager decode.

    python3 peers.py RESULTS [--tiny]

Writes peers.md and peers.json. What is not installed, or fails, is a line of the page.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

LLAMA = dict(hidden=4096, intermediate=14336, heads=32, kv_heads=8, head_dim=128, vocab=128256, layers=32)
TINY = dict(hidden=64, intermediate=128, heads=4, kv_heads=2, head_dim=16, vocab=256, layers=2)
ROWS = [1, 8, 16, 64, 256, 1024, 4096]
DECODE = [(1, 1024), (1, 8192), (8, 1024), (32, 1024), (32, 4096), (32, 8192), (128, 1024)]
PREFILL = [512, 1024, 2048, 4096, 8192]
STEPS = [(1, 1024), (8, 1024), (32, 1024)]

# Copies of an operand that calls walk through: more than a cache holds.
ROTATION_BYTES = 512 << 20


class Report:
    """Lines of the page, and the same as data."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.notes, self.rows = [], []

    def add(self, what, shape, seconds, work_bytes, operations):
        self.rows.append(
            dict(what=what, shape=shape, microseconds=1e6 * seconds, tb_s=work_bytes / seconds / 1e12,
                 tflop_s=operations / seconds / 1e12)
        )

    def write(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = ["# peers", ""] + [f"- {note}" for note in self.notes] + [""]
        lines += ["| what | shape | µs | TB/s | TFLOP/s |", "|:---|:---|---:|---:|---:|"]
        for row in self.rows:
            cells = "| {what} | {shape} | {microseconds:.1f} | {tb_s:.2f} | {tflop_s:.1f} |"
            lines.append(cells.format(**row))
        (self.folder / "peers.md").write_text("\n".join(lines) + "\n")
        data = dict(notes=self.notes, rows=self.rows)
        (self.folder / "peers.json").write_text(json.dumps(data, indent=2) + "\n")


class Clock:
    """CUDA events around many calls, as a graph where they can be captured."""

    def __init__(self, torch, tiny):
        self.torch, self.rounds = torch, 1 if tiny else 5
        self.seconds = 0.0 if tiny else 0.02

    def once(self, run):
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        self.torch.cuda.synchronize()
        return max(start.elapsed_time(end) / 1e3, 1e-7)

    def graph_of(self, run, calls):
        torch = self.torch
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                for _ in range(calls):
                    run()
            return graph.replay, calls
        except Exception:  # noqa: BLE001 - what cannot be captured is timed as it is
            torch.cuda.synchronize()
            return run, 1

    def time(self, run, capture=True):
        for _ in range(3):
            run()
        first = self.once(run)
        calls = 16 if first < 5e-3 else 1
        replay, calls = self.graph_of(run, calls) if capture else (run, 1)
        replay()
        times = int(min(max(self.seconds / (first * calls), 1), 2000))

        def repeat():
            for _ in range(times):
                replay()

        return statistics.median(self.once(repeat) / (times * calls) for _ in range(self.rounds))


def rotating(items):
    """Each call gives the next item."""
    state = dict(at=0)

    def following():
        state["at"] = (state["at"] + 1) % len(items)
        return items[state["at"]]

    return following


def products(torch, clock, report, sizes, tiny):
    hidden, inner = sizes["hidden"], sizes["intermediate"]
    q_size, kv_size = sizes["heads"] * sizes["head_dim"], sizes["kv_heads"] * sizes["head_dim"]
    shapes = [("qkv", q_size + 2 * kv_size, hidden), ("attn_output", hidden, q_size),
              ("gate_up", 2 * inner, hidden), ("down", hidden, inner), ("head", sizes["vocab"], hidden)]
    for name, out_features, in_features in shapes:
        size = 2 * out_features * in_features
        copies = 1 if tiny else min(max(ROTATION_BYTES // size, 1), 64)
        weights = [torch.randn(out_features, in_features, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
        for rows in [1, 16] if tiny else ROWS:
            if name == "head" and rows > 256:
                continue
            x = torch.randn(rows, in_features, device="cuda", dtype=torch.bfloat16)
            weight = rotating(weights)
            seconds = clock.time(lambda: torch.nn.functional.linear(x, weight()))
            work = size + 2 * rows * (in_features + out_features)
            report.add("cuBLAS bf16", f"{name} {rows}x{in_features} -> {out_features}", seconds, work,
                       2 * rows * in_features * out_features)
        del weights


def attention(torch, clock, report, sizes, tiny):
    heads, kv_heads, dim = sizes["heads"], sizes["kv_heads"], sizes["head_dim"]
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def tensor(batch, count, length):
        return torch.randn(batch, count, length, dim, device="cuda", dtype=torch.bfloat16)

    batches = [(3, 1, 40)] if tiny else [(batch, 1, context) for batch, context in DECODE]
    batches += [(1, 40, 40)] if tiny else [(1, length, length) for length in PREFILL]
    for batch, queries, context in batches:
        kv_bytes = 2 * 2 * batch * kv_heads * context * dim
        copies = 1 if tiny else min(max(ROTATION_BYTES // kv_bytes, 1), 32)
        pairs = [(tensor(batch, kv_heads, context), tensor(batch, kv_heads, context)) for _ in range(copies)]
        query, pair = tensor(batch, heads, queries), rotating(pairs)
        causal = queries > 1

        def run():
            keys, values = pair()
            return sdpa(query, keys, values, is_causal=causal, enable_gqa=True)

        seen = context * (context + 1) // 2 if causal else context
        kind = "prefill" if causal else "decode"
        report.add("SDPA", f"{kind} {batch} x ({queries} of {context})", clock.time(run),
                   kv_bytes + 2 * 2 * batch * heads * queries * dim, 4 * batch * heads * dim * seen)
        del pairs


def transformers_steps(torch, clock, report, sizes, tiny):
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=sizes["hidden"], intermediate_size=sizes["intermediate"], vocab_size=sizes["vocab"],
        num_hidden_layers=sizes["layers"], num_attention_heads=sizes["heads"], num_key_value_heads=sizes["kv_heads"],
        head_dim=sizes["head_dim"], max_position_embeddings=16384)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"), torch.inference_mode():
            model = transformers.AutoModelForCausalLM.from_config(config).eval()
    finally:
        torch.set_default_dtype(before)
    weights = sum(p.numel() for p in model.parameters())
    report.notes.append(f"transformers {transformers.__version__}, eager, {weights / 1e9:.2f} G parameters")
    for batch, context in [(2, 20)] if tiny else STEPS:
        with torch.inference_mode():
            prompt = torch.randint(0, sizes["vocab"], (batch, context), device="cuda")
            out = None

            def prefill():
                nonlocal out
                out = None  # its cache first
                out = model(prompt, use_cache=True, logits_to_keep=1)

            seconds = clock.time(prefill, capture=False)
            report.add("transformers prefill", f"{batch} x {context}", seconds, 2 * weights, 2 * weights * batch * context)
            cache, token = out.past_key_values, prompt[:, -1:]
            # The context grows by a token a step: little beside what it is.
            seconds = clock.time(lambda: model(token, past_key_values=cache, use_cache=True), capture=False)
            kv = 4 * batch * context * sizes["layers"] * sizes["kv_heads"] * sizes["head_dim"]
            report.add("transformers decode", f"{batch} x {context}", seconds, 2 * weights + kv, 2 * weights * batch)
            del cache, out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    report = Report(args.results)
    try:
        import torch
    except ImportError:
        report.notes.append("PyTorch is not installed")
        report.write()
        return 0
    if not torch.cuda.is_available():
        report.notes.append(f"PyTorch {torch.__version__} sees no GPU")
        report.write()
        return 0
    report.notes.append(f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}")
    clock, sizes, failed = Clock(torch, args.tiny), TINY if args.tiny else LLAMA, 0
    for part in (products, attention, transformers_steps):
        try:
            with torch.inference_mode():
                part(torch, clock, report, sizes, args.tiny)
        except Exception as error:  # noqa: BLE001 - the next part may do
            report.notes.append(f"{part.__name__}: {type(error).__name__}: {error}")
            failed = 1
        torch.cuda.empty_cache()
        report.write()
    return failed


if __name__ == "__main__":
    sys.exit(main())
