#!/usr/bin/env python3
"""Times how long a request waits when its model has to be loaded in the place of another.

    python3 benches/peers/switching.py MODEL.gguf [OTHER.gguf] [--switches 10]

Two models (the second may be a copy of the first) in a server whose memory holds one. What is told: the time of a request of one
token to the model that is not loaded, the same to one that is, and the load alone as the answer has it (`load_duration`).
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request

import servers

ROOT = pathlib.Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("other", type=pathlib.Path, nargs="?")
    parser.add_argument("--switches", type=int, default=10)
    parser.add_argument("--memory", default="700MiB")
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target" / "release" / "quire")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as log:
        paths = [pathlib.Path(folder) / name for name in ("one.gguf", "two.gguf")]
        for path, source in zip(paths, [args.model, args.other or args.model], strict=True):
            shutil.copy(source, path)
        port = servers.free_port()
        command = [args.binary, "serve", *paths, "--device", "cpu", "--models-memory", args.memory]
        command += ["--port", port, "--host", "127.0.0.1", "--max-model-len", 2048, "--kv-cache-memory", "64MiB"]
        server = subprocess.Popen([*map(str, command)], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            servers.wait_until_ready(server, port, log)
            report(port, args.switches)
        finally:
            servers.end(server)
            log.seek(0)
            if os.environ.get("SHOW_LOG"):
                print(log.read())


def report(port, switches):
    ask(port, "one")
    waits, loads, warm = [], [], []
    for turn in range(switches):
        seconds, load = ask(port, ("two", "one")[turn % 2])
        waits.append(seconds * 1e3)
        loads.append(load)
        seconds, load = ask(port, ("two", "one")[turn % 2])
        assert load < 5, "the model was not there any more"
        warm.append(seconds * 1e3)
    for name, found in [("switched", waits), ("load alone", loads), ("without", warm)]:
        middle, most = statistics.median(found), max(found)
        print(f"{name}: median {middle:.0f} ms, longest {most:.0f} ms")


def ask(port, model):
    """Seconds of a request, and milliseconds of the load."""
    body = {"model": model, "prompt": "Hello", "stream": False, "options": {"num_predict": 1, "temperature": 0}}
    start = time.monotonic()
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/generate", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    return time.monotonic() - start, answer.get("load_duration", 0) / 1e6


if __name__ == "__main__":
    main()
