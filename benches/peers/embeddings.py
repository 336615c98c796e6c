#!/usr/bin/env python3
"""Compares embeddings over /v1/embeddings with llama.cpp's server, in turn (A B A B), on one GGUF file and the same texts.

    python3 benches/peers/embeddings.py MODEL.gguf [--texts 512] [--a-request 16] [--users 4] [--rounds 2]

Texts have 8 to 128 words. Each server is started alone, warmed up, asked for all texts once, and ended. Both give the same vectors,
or the comparison ends.
"""

import argparse
import concurrent.futures
import http.client
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import tempfile
import time

import llama_cpp
import servers

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORDS = (
    "a river flows through the old town while people talk about bread weather music trains numbers and the price of "
    "fish nobody knows why light bends or how engines learn to count stars over a quiet sea in winter"
).split()


def main():
    args = parse_args()
    texts = texts_of(args.texts)
    rates, vectors = {}, {}
    for _ in range(args.rounds):
        for name, contestant in contestants(args).items():
            rate, sample = measure(contestant, texts, args)
            rates.setdefault(name, []).append(rate)
            vectors[name] = sample
            print(f"{name}: {rate:.0f} texts a second", flush=True)
    first, second = vectors.values()
    nearness = min(cosine(a, b) for a, b in zip(first, second, strict=True))
    assert nearness > 0.99, f"the servers do not agree: cosine {nearness}"
    best = {name: statistics.mean(found) for name, found in rates.items()}
    print(f"ratio {best['Quire'] / best['llama.cpp']:.2f}, least cosine between the two {nearness:.5f}")


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--a-request", type=int, default=16)
    parser.add_argument("--users", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--llama-flags", default="", help="more flags of llama-server")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "release" / "quire")
    return parser.parse_args()


def texts_of(count):
    chance = random.Random(1)
    return [" ".join(chance.choices(WORDS, k=chance.randint(8, 128))) for _ in range(count)]


def contestants(args):
    command = [llama_cpp.tool("llama-server"), "--model", args.model, "--embeddings", "--pooling", "mean"]
    # Slots for all texts in flight. Of physical batches its default was the fastest that was tried (2048: a quarter slower).
    slots = args.users * args.a_request
    command += ["--parallel", slots, "--ctx-size", slots * 256, "--batch-size", 2048, "--ubatch-size", 512]
    command += ["--threads", args.threads, "--threads-batch", args.threads, "--no-webui", *args.llama_flags.split()]
    peer = servers.Contestant("llama.cpp", [*command, "--port", "{port}", "--host", "127.0.0.1"])
    return {"Quire": servers.quire(args.binary.parent, args.model, args.threads), "llama.cpp": peer}


def measure(contestant, texts, args):
    """Texts a second, and the vectors of the first few."""
    port = servers.free_port()
    command = [str(part).replace("{port}", str(port)) for part in contestant.command]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            servers.wait_until_ready(server, port, log)
            parts = [texts[i : i + args.a_request] for i in range(0, len(texts), args.a_request)]
            sample = json.loads(embed(port, texts[:8]))["data"]
            for part in parts[: args.users]:
                embed(port, part)
            start = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(args.users) as pool:
                list(pool.map(lambda part: embed(port, part), parts))
            seconds = time.monotonic() - start
        finally:
            servers.end(server)
    return len(texts) / seconds, [item["embedding"] for item in sample]


def embed(port, texts):
    """The body of the answer, unread."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    body = json.dumps({"model": "default", "input": texts})
    connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    assert response.status == 200, answer[:500]
    return answer


def cosine(a, b):
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))


if __name__ == "__main__":
    main()
