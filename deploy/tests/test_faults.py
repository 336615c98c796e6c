"""What an operator's machine does to a server: clocks that jump, full disks, no descriptors, small cgroups, files that change."""

import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

import pytest
import tools
from support import BINARY, MODEL, Load, Quire, free_port, status_of, wait_for

CGROUPS = pathlib.Path("/sys/fs/cgroup")


@pytest.fixture
def start():
    """Starts servers, and ends them."""
    servers = []

    def start(*flags, **options):
        servers.append(Quire("--threads", "1", *flags, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def assert_serves(server):
    assert Load(server.port, 0, max_tokens=4).ask("Still there?") is None, server.output()[-2000:]


def test_a_clock_that_jumps_fails_nobody(start, tmp_path):
    clock = tmp_path / "clock"
    clock.write_text("+0")
    library = tools.library("libfaketime.so.1")
    fake = [f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={clock}", "FAKETIME_NO_CACHE=1", "DONT_FAKE_MONOTONIC=1"]
    # Whatever counts seconds by the clock of the day would end a request at once, or never.
    server = start(program=("env", *fake, BINARY)).wait_until_ready()
    with Load(server.port, 3, max_tokens=64) as load:
        for jump in ["+3600", "-3600", "+86400", "+0"]:
            time.sleep(1)
            clock.write_text(jump)
        time.sleep(1)
        assert status_of(f"http://127.0.0.1:{server.health_port}/livez") == 200
    assert load.num_answers > 0 and load.failures == []
    # The jumps were there: a day's difference is in the answers' times.
    clock.write_text("+86400")
    body = json.dumps({"prompt": "When?", "max_tokens": 1}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/v1/completions", body, {"Content-Type": "application/json"})
    created = json.load(urllib.request.urlopen(request, timeout=30))["created"]
    assert created - time.time() > 80_000


def test_a_log_on_a_full_disk_stops_nobody(start):
    """All that is printed goes to a device on which nothing can be written."""
    server = start(program=("sh", "-c", 'exec "$0" "$@" > /dev/full 2>&1', BINARY)).wait_until_ready()
    assert_serves(server)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0


def test_a_models_folder_on_a_full_disk_is_said_and_stops_nobody(start, tmp_path):
    mount = f"mount -t tmpfs -o size=64k full {tmp_path}; head -c 100k /dev/zero > {tmp_path}/rest 2> /dev/null"
    inside = ["unshare", "--mount", "sh", "-c", f'{mount}; exec "$0" "$@"', BINARY]
    if subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "full", tmp_path], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    server = start("--models-dir", tmp_path, program=inside).wait_until_ready()
    assert_serves(server)
    wait_for(lambda: gauge(server, 'quire_doctor_check{check="disk"') == 2, 20, "the doctor says it")


def test_a_collector_that_never_answers_costs_nothing(start):
    with socket.create_server(("127.0.0.1", 0)) as hole:
        server = start("--otlp-traces-endpoint", f"http://127.0.0.1:{hole.getsockname()[1]}").wait_until_ready()
        with Load(server.port, 3, max_tokens=8) as load:
            wait_for(lambda: load.num_answers > 30, 60, "clients are answered")
        assert load.failures == []
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0


def test_a_taken_port_is_named(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = start(port=taken.getsockname()[1])
        assert server.process.wait(30) != 0
    assert "--port" in server.output()


def test_without_descriptors_it_waits_for_some(start):
    server = start(program=("prlimit", "--nofile=64", BINARY)).wait_until_ready()
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    time.sleep(1)
    # It does not spin over connections that it cannot accept.
    before = processor_seconds(server)
    time.sleep(2)
    assert processor_seconds(server) - before < 1
    for connection in idle:
        connection.close()
    wait_for(lambda: Load(server.port, 0, max_tokens=4).ask("Now?") is None, 20, "it accepts again")


def processor_seconds(server):
    fields = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_clients_that_all_leave_at_once_leave_nothing_behind(start):
    server = start().wait_until_ready()
    body = json.dumps({"prompt": "Count:", "max_tokens": 1000, "ignore_eos": True, "stream": True})
    clients = []
    for _ in range(300):
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        client.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        clients.append(client)
    wait_for(lambda: gauge(server, "vllm:num_requests_running{") > 100, 60, "they run")
    for client in clients:
        client.sock.close()
    wait_for(lambda: gauge(server, "vllm:num_requests_running{") + gauge(server, "vllm:num_requests_waiting{") == 0, 20, "they are gone")
    assert gauge(server, "vllm:kv_cache_usage_perc{") == 0
    assert_serves(server)


def gauge(server, name):
    """The sum of the series that begin so."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.health_port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture
def cgroup():
    """A cgroup of version 1 or 2 for the memory of a test, below this process's own."""
    lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
    paths = {controller: path for line in lines for controllers, path in [line.split(":")[1:]] for controller in controllers.split(",")}
    base = CGROUPS / "memory" if "memory" in paths else CGROUPS
    name, limit = ("memory", "memory.limit_in_bytes") if "memory" in paths else ("", "memory.max")
    folder = base / paths[name].lstrip("/") / f"quire-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / limit).write_text(str(700 << 20))
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip("this machine lets nobody make cgroups")
    yield folder
    wait_for(lambda: not (folder / "cgroup.procs").read_text(), 20, "the cgroup is empty")
    folder.rmdir()


def test_a_cgroup_smaller_than_the_machine_is_what_is_planned_for(cgroup):
    inside = ["sh", "-c", f'echo $$ > {cgroup}/cgroup.procs; exec "$0" "$@"', BINARY]
    server = Quire("--threads", "1", program=inside)
    try:
        server.wait_until_ready()
        with Load(server.port, 24, max_tokens=64) as load:
            wait_for(lambda: load.num_answers > 48, 120, "clients are answered")
        assert load.failures == [] and server.is_running(), server.output()[-2000:]
    finally:
        server.kill()
    # What cannot fit is said before anything is loaded, with the flag to change.
    result = subprocess.run([*inside, "serve", MODEL, "--port", str(free_port()), "--kv-cache-memory", "2GiB"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "--kv-cache-memory" in result.stderr, result.stderr[-2000:]


def test_a_model_file_that_is_cut_off_under_the_server(start, tmp_path):
    """What was mapped is gone: it goes on from what it has in memory, or it ends; it never answers with something else."""
    model = tmp_path / MODEL.name
    shutil.copy(MODEL, model)
    server = start(model=model).wait_until_ready()
    before = answer(server)
    os.truncate(model, 4096)
    after = answer(server)
    assert after == before or (after is None and server.process.wait(10) != 0)


def answer(server):
    body = json.dumps({"prompt": "The capital of France is", "max_tokens": 16, "temperature": 0}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/v1/completions", body, {"Content-Type": "application/json"})
    try:
        return json.load(urllib.request.urlopen(request, timeout=30))["choices"][0]["text"]
    except OSError:
        return None
