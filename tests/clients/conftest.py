"""Starts `quire serve` on a free port with the default model, and ends it."""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

import openai
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "quire"
KEY = "key-of-the-tests"
# These need hundreds of megabytes of packages: `make clients-stack` gets them.
collect_ignore = [] if importlib.util.find_spec("chromadb") else ["stack"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A running server. `flags` go to `quire serve`; `port`: any that is free."""

    def __init__(self, *flags, port=None):
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tempfile.NamedTemporaryFile("w+", prefix="quire-", suffix=".log")
        # The same on every machine: `server/tests/gpu.rs` is for GPUs.
        command = [BINARY, "serve", MODEL, "--device", "cpu", "--port", str(self.port), "--api-key", KEY, *flags]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.headers = {"Authorization": f"Bearer {KEY}"}
        try:
            wait_for(self.is_ready, 120, "the server is ready")
        except BaseException:
            self.kill()
            raise

    def is_ready(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended at start:\n{self.output()}")
        try:
            self.get("/readyz", timeout=5)
            return True
        except OSError:
            return False

    def client(self, key=KEY):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=300)

    def post(self, path, body):
        """The answer's JSON."""
        headers = self.headers | {"Content-Type": "application/json"}
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def get(self, path, timeout=30):
        """The answer's text; any status but success is an OSError."""
        request = urllib.request.Request(self.url + path, headers=self.headers)
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return response.read().decode()

    def metric(self, name):
        """The sum of a metric over its labels; absent is an error."""
        pattern = rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)"
        values = [float(value) for value in re.findall(pattern, self.get("/metrics"), re.MULTILINE)]
        assert values, f"{name} is not in /metrics"
        return sum(values)

    def output(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self, timeout=60):
        """SIGTERM; the exit status."""
        self.signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


def wait_for(condition, seconds, what):
    """Polls until `condition` holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.05)


@contextlib.contextmanager
def running(*flags):
    """A server that must end well."""
    server = Server(*flags)
    try:
        yield server
        assert server.stop() == 0, server.output()
    finally:
        server.kill()


@pytest.fixture(scope="session")
def server():
    with running() as server:
        yield server


@pytest.fixture
def start():
    """Starts further servers, with flags of their own."""
    servers = []

    def start(*flags, **options):
        servers.append(Server(*flags, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def client(server):
    return server.client()
