"""Servers under load: each started alone, loaded by the client of the benches, and ended. Everything on 127.0.0.1."""

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field

import llama_cpp
import machine
from programs import Failed, run

# Prompt, answer and the template's tokens fit into a slot.
TOKENS_PER_USER = 512
START_TIMEOUT = 600
IDLE_SECONDS = 3


@dataclass(frozen=True)
class Contestant:
    """A server by its command; `{port}` stands for its port."""

    name: str
    command: list
    environment: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """What the client does to a server."""

    users: int
    requests: int | None = None
    max_tokens: int = 128
    prompt_words: int | None = None
    idle: bool = False


def quire(binaries, model, threads, flags=()):
    command = [binaries / "quire", "serve", model, "--device", "cpu", "--threads", threads, "--port", "{port}"]
    return Contestant("Quire", [*command, "--host", "127.0.0.1", *flags])


def llama_server(name, file, threads, users):
    """llama.cpp with a slot a user and no more context than they need."""
    command = [llama_cpp.tool("llama-server"), "--model", file, "--parallel", users]
    command += ["--cont-batching", "--ctx-size", users * TOKENS_PER_USER, "--threads", threads]
    return Contestant(name, [*command, "--no-webui", "--port", "{port}", "--host", "127.0.0.1"])


def measure(contestant, binaries, load):
    """A row of figures: times in milliseconds, memory in MiB."""
    port = free_port()
    command = [str(part).replace("{port}", str(port)) for part in contestant.command]
    environment = {**os.environ, **contestant.environment}
    with tempfile.TemporaryFile("w+") as log:
        start = time.monotonic()
        # In a group of its own, so that all that it starts can be ended.
        server = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            wait_until_ready(server, port, log)
            ready = time.monotonic() - start
            with machine.Watch() as watch:
                level = run_client(binaries, server.pid, port, load)
            idle = idle_share(server.pid) if load.idle else None
        finally:
            end(server)
    return {
        "ready": ready,
        "idle": idle,
        "foreign_cores": watch.foreign_cores,
        **figures_of(level),
    }


def format_of(model):
    """The weight type that a file's name ends with."""
    found = re.search(r"[.-](I?Q\d\w*|B?F16|F32|MXFP4\w*)$", model.stem, re.IGNORECASE)
    return found.group(1) if found else "own file"


def figures_of(level):
    """The client's level as a flat row."""
    memory = level["peak_memory_bytes"]
    return {
        "rate": level["output_tokens_per_second"],
        "ttft": level["ttft"]["mean"],
        "ttft99": level["ttft"]["p99"],
        "itl": level["itl"]["mean"],
        "itl99": level["itl"]["p99"],
        "e2e": level["e2e"]["mean"],
        "memory": memory / 2**20 if memory else None,
        "prompt_tokens": level["prompt_tokens"],
        "requests": level["requests"],
        "seconds": level["seconds"],
        "failures": level["failures"],
        "first_failure": level["first_failure"],
    }


def wait_until_ready(server, port, log):
    start = time.monotonic()
    deadline = start + START_TIMEOUT
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            # Fine enough for a server that is ready at once; asking costs one that is not.
            time.sleep(0.005 if time.monotonic() < start + 2 else 0.1)
    log.seek(0)
    raise Failed(f"{log.read()[-3000:]}\nthis did not start: {' '.join(server.args)}")


def run_client(binaries, pid, port, load):
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [binaries / "quire-bench", "--base-url", f"http://127.0.0.1:{port}", "--pid", pid]
        # The server has all processors, so the client is late like any other process here.
        command += ["--allow-late", "--seed", "0"]
        command += ["--concurrency", load.users, "--max-tokens", load.max_tokens]
        command += ["--json", report.name]
        if load.requests:
            command += ["--requests", load.requests]
        if load.prompt_words:
            command += ["--prompt-words", load.prompt_words]
        run(command)
        return json.loads(report.read())["levels"][0]


def idle_share(pid):
    """CPU time that a server takes with nothing to do, as a share of a core."""
    time.sleep(1)
    start, before = time.monotonic(), machine.thread_nanoseconds(pid)
    time.sleep(IDLE_SECONDS)
    used = machine.nanoseconds_between(before, machine.thread_nanoseconds(pid))
    return used / 1e9 / (time.monotonic() - start)


def end(server):
    """Ends a server and what it started."""
    for kind in [signal.SIGTERM, signal.SIGKILL]:
        try:
            os.killpg(server.pid, kind)
            server.wait(timeout=20)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            continue
        return


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
