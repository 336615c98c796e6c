"""Starts the programs of the tests on free ports, loads a server, and ends them all."""

import http.client
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import tools

DEPLOY = pathlib.Path(__file__).resolve().parents[1]
ROOT = DEPLOY.parent
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
BINARY = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "quire"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, seconds, what):
    """Polls until `condition` holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.02)


class Process:
    """A program that runs until it is killed; its output goes to a file."""

    def __init__(self, *command, environment=None):
        self.log = tempfile.NamedTemporaryFile("w+", prefix="deploy-", suffix=".log")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)

    def is_running(self):
        return self.process.poll() is None

    def output(self):
        return pathlib.Path(self.log.name).read_text()

    def kill(self):
        if self.is_running():
            self.process.kill()
        self.process.wait()


class Quire(Process):
    """A server with the default model; `flags` go to `quire serve`. The same port may be asked for again.

    `program`: what is run, with what runs it before, and the model, where they are not the usual ones.
    """

    def __init__(self, *flags, port=None, health_port=None, program=(BINARY,), model=MODEL):
        self.port, self.health_port = port or free_port(), health_port or free_port()
        ports = ["--port", str(self.port), "--health-port", str(self.health_port)]
        super().__init__(*program, "serve", model, "--device", "cpu", *ports, *flags)

    def wait_until_ready(self):
        def is_ready():
            assert self.is_running(), f"the server ended at start:\n{self.output()}"
            return status_of(f"http://127.0.0.1:{self.health_port}/readyz") == 200

        wait_for(is_ready, 120, "the server is ready")
        return self

    def served(self):
        """Requests that have ended."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:request_success_total{"))


class Prometheus(Process):
    """Prometheus with `config`, a dictionary as of prometheus.yml."""

    def __init__(self, config, folder):
        self.port = free_port()
        path = pathlib.Path(folder) / "prometheus.yml"
        # JSON is YAML.
        path.write_text(json.dumps(config))
        flags = [f"--config.file={path}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{self.port}"]
        super().__init__(tools.program("prometheus"), *flags)
        wait_for(lambda: status_of(f"http://127.0.0.1:{self.port}/-/ready") == 200, 60, f"Prometheus is ready\n{self.output()}")

    def api(self, path, **parameters):
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}", timeout=30) as response:
            return json.load(response)["data"]

    def query(self, expression):
        """The values of an instant query."""
        result = self.api("query", query=expression)["result"]
        return [float(sample["value"][1]) for sample in result]


def status_of(url):
    """The status of a GET, 0 where nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def gauge(server, name):
    """The sum of the series that begin so."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.health_port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


class Load:
    """Clients that ask one after the other, each on connections of its own; what went wrong is in `failures`."""

    def __init__(self, port, num_clients, max_tokens=24, stream=True, model="default"):
        self.port, self.max_tokens, self.stream, self.model = port, max_tokens, stream, model
        self.num_answers, self.failures = 0, []
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(number,), daemon=True) for number in range(num_clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Lets every client finish its answer."""
        self.stopping.set()
        for thread in self.threads:
            thread.join(120)

    def run(self, number):
        turn = 0
        while not self.stopping.is_set():
            failure = self.ask(f"Client {number} counts to {turn}:")
            with self.lock:
                if failure is None:
                    self.num_answers += 1
                else:
                    self.failures.append((time.monotonic(), failure))
            turn += 1

    def ask(self, prompt):
        """Nothing, or what was wrong with the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = {"model": self.model, "prompt": prompt, "max_tokens": self.max_tokens, "stream": self.stream}
        body |= {"ignore_eos": True, "temperature": 0}
        try:
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            connection.close()
        if response.status != 200:
            return f"{response.status}: {text[:200]}"
        is_whole = text.rstrip().endswith("data: [DONE]") if self.stream else json.loads(text)["choices"]
        has_all = '"finish_reason":"length"' in text.replace(" ", "")
        return None if is_whole and has_all else f"cut off: {text[-200:]}"


def assert_serves(server):
    assert Load(server.port, 0, max_tokens=4).ask("Still there?") is None, server.output()[-2000:]
