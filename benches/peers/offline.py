"""Engines without a server: prefill of one prompt, decode of batches, by Quire's and by llama.cpp's own programs."""

import json
import tempfile
from dataclasses import dataclass

import llama_cpp
import machine
from programs import run

PREFILL_TOKENS = 512


@dataclass(frozen=True)
class Shape:
    """What is timed: after prompts of `prompt_tokens`, `output_tokens` steps of each batch."""

    batches: list
    prompt_tokens: int = 128
    output_tokens: int = 128
    # Of a prefill by llama-bench, after one that does not count.
    repetitions: int = 3


def quire(binaries, model, threads, shape):
    """Rows of phase, batch and rate in tokens a second, and the machine's limits."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [binaries / "offline", model, "--threads", threads, "--rounds", 1]
        command += ["--batch", ",".join(map(str, shape.batches))]
        command += ["--prefill-tokens", PREFILL_TOKENS, "--prompt-tokens", shape.prompt_tokens]
        command += ["--output-tokens", shape.output_tokens, "--json", report.name]
        with machine.Watch() as watch:
            run(command)
        rows, limits = parse_quire(json.loads(report.read()))
    return [{**row, "foreign_cores": watch.foreign_cores} for row in rows], limits


def llama(model, threads, shape):
    """The same rows of llama-bench and llama-batched-bench."""
    bench = [llama_cpp.tool("llama-bench"), "-m", model, "-t", threads, "-o", "json"]
    bench += ["-p", PREFILL_TOKENS, "-n", 0, "-r", shape.repetitions]
    batched = [llama_cpp.tool("llama-batched-bench"), "-m", model, "-t", threads]
    batched += ["-npp", shape.prompt_tokens, "-ntg", shape.output_tokens]
    batched += ["-npl", ",".join(map(str, shape.batches)), "--output-format", "jsonl"]
    tokens = shape.prompt_tokens + shape.output_tokens
    batched += ["-c", (max(shape.batches) + 1) * tokens]
    with machine.Watch() as watch:
        rows = parse_llama_bench(run(bench))
        rows += parse_batched_bench(run(batched))
    return [{**row, "foreign_cores": watch.foreign_cores} for row in rows]


def parse_quire(report):
    """Rows and limits of a report of `offline`."""
    keys = ["phase", "batch", "memory_share", "arithmetic_share"]
    rows = [
        {**{key: figure[key] for key in keys}, "rate": figure["tokens_per_second"]}
        for figure in report["figures"]
    ]
    return rows, report["limits"]


def parse_llama_bench(text):
    """The one test of a `-o json` report."""
    (test,) = json.loads(text)
    return [{"phase": "prefill", "batch": 1, "rate": test["avg_ts"]}]


def parse_batched_bench(text):
    """Decode at each number of sequences (`pl`), from the lines that are JSON."""
    results = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [
        {"phase": "decode", "batch": result["pl"], "rate": result["speed_tg"]} for result in results
    ]


def better_limits(known, new):
    """The better of two measurements of a machine: whatever disturbs one makes it lower."""
    return {
        name: max(known[name], value) if isinstance(known.get(name), float) else value
        for name, value in new.items()
    }
