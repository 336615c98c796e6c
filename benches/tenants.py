"""What a tenant that floods does to the others, of a real server: tenants.py BINARIES MODEL [SECONDS]

Starts a server with four tenants. Three ask for six tenths of a quarter of what the machine can do, the fourth for its quarter, then for
a hundred times that. Prints, as Markdown, the time to first token of the three. The server has the first processor for itself, and
clients the others: a flood's clients are elsewhere too. Needs taskset, and a machine that does nothing else.
"""

import asyncio
import hashlib
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import time

NAMES = ["flood", "a", "b", "c"]
WORDS = "river stone light paper garden window engine letter morning silver copper bridge".split()
NUM_WORDS = 60
NUM_OUTPUT_TOKENS = 16
NUM_ROWS = 16
TURNS = 2


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def body(rng):
    prompt = " ".join(rng.choices(WORDS, k=NUM_WORDS)) + f" {rng.random()}"
    return json.dumps({"prompt": prompt, "max_tokens": NUM_OUTPUT_TOKENS, "ignore_eos": True, "stream": True}).encode()


async def ask(port, name, payload):
    """The status, and seconds to the first event with text; the whole answer is read."""
    begin = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {name}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    writer.write(head.encode() + payload)
    status = int((await reader.readline()).split()[1])
    first = None
    while line := await reader.readline():
        if first is None and line.startswith(b"data: "):
            first = time.perf_counter() - begin
    writer.close()
    return status, first


async def open_loop(port, name, rate, seconds, rng, results):
    """Requests at random times, whatever becomes of those before."""
    end, due, tasks = time.perf_counter() + seconds, time.perf_counter(), []

    async def one():
        results.append(await ask(port, name, body(rng)))

    while (due := due + rng.expovariate(rate)) < end:
        await asyncio.sleep(max(0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one()))
    await asyncio.gather(*tasks)


async def capacity(port, rng, seconds):
    """Answers a second with as many requests at once as help."""
    done, end = 0, time.perf_counter() + seconds

    async def client():
        nonlocal done
        while time.perf_counter() < end:
            # The others begin with nothing on their account.
            await ask(port, "flood", body(rng))
            done += time.perf_counter() < end

    await asyncio.gather(*[client() for _ in range(24)])
    return done / seconds


def percentile(values, percent):
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)] * 1e3


def flood_of(bench, port, rate, seconds):
    """The load harness: it is cheap enough to ask hundreds of times a second beside the server."""
    flags = ["--base-url", f"http://127.0.0.1:{port}", "--api", "completions", "--api-key", "flood", "--rate", str(rate)]
    flags += ["--requests", str(int(rate * seconds)), "--prompt-words", str(NUM_WORDS), "--max-tokens", str(NUM_OUTPUT_TOKENS)]
    return subprocess.Popen(
        [bench, *flags, "--warmup", "0", "--threads", "1", "--allow-late"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


async def phase(port, bench, share, flood_rate, seconds, seed):
    rng, results = random.Random(seed), {name: [] for name in NAMES[1:]}
    flood = flood_of(bench, port, flood_rate, seconds + 4)
    try:
        await asyncio.sleep(3)
        await asyncio.gather(*[open_loop(port, name, 0.6 * share, seconds, rng, results[name]) for name in NAMES[1:]])
    finally:
        flood.terminate()
        flood.wait()
    answers = [answer for name in NAMES[1:] for answer in results[name]]
    firsts = [first for status, first in answers if status == 200]
    times = {p: percentile(firsts, p) for p in (50, 90, 99)}
    cells = " | ".join(f"{times[p]:.0f}" for p in (50, 90, 99))
    print(f"| {flood_rate:.1f} | {len(firsts)} | {len(answers) - len(firsts)} | {cells} |", flush=True)
    # What still waits of the flood is cancelled by its end.
    await asyncio.sleep(2)
    return times[99]


async def measure(port, bench, seconds):
    await capacity(port, random.Random(1), 3)
    share = await capacity(port, random.Random(2), 8) / 4
    print(f"The machine makes {4 * share:.1f} answers a second, a tenant's share is {share:.1f}.\n")
    print("| flood asks, 1/s | others answered | refused | first token p50, ms | p90 | p99 |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    moved = []
    for turn in range(TURNS):
        calm = await phase(port, bench, share, share, seconds, 10 + turn)
        flooded = await phase(port, bench, share, 100 * share, seconds, 10 + turn)
        moved.append(f"{100 * (flooded / calm - 1):+.0f}%")
    print(f"\nThe flood moves the others' p99 by {' and '.join(moved)}; the bar is +20%.", flush=True)


def main():
    binaries, model = pathlib.Path(sys.argv[1]), sys.argv[2]
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 30
    port = free_port()
    tenants = [{"name": n, "keys_sha256": [hashlib.sha256(n.encode()).hexdigest()]} for n in NAMES]
    os.sched_setaffinity(0, os.sched_getaffinity(0) - {0} or {0})
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"tenants": tenants}, file)
        file.flush()
        flags = ["--port", str(port), "--keys-file", file.name, "--max-num-seqs", str(NUM_ROWS), "--threads", "1"]
        command = ["taskset", "-c", "0", binaries / "quire", "serve", model, *flags, *sys.argv[4:], "--log-level", "error"]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            for _ in range(300):
                try:
                    asyncio.run(ask(port, "flood", body(random.Random(0))))
                    break
                except OSError:
                    time.sleep(0.2)
            time.sleep(1)
            asyncio.run(measure(port, binaries / "quire-bench", seconds))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
