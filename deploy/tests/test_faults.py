"""What an operator's machine does to a server: clocks that jump, disks that are full or broken, logs that nobody reads,
names that nobody resolves, no descriptors, small cgroups, files that change."""

import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest
import tools
from support import BINARY, MODEL, Load, assert_serves, free_port, gauge, status_of, wait_for

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


def test_a_log_that_nobody_reads_stops_nobody(start, tmp_path):
    """A pipe that is full: whoever wrote into it would wait for ever."""
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    server = start(program=("sh", "-c", f'exec "$0" "$@" 2> {pipe}', BINARY)).wait_until_ready()
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    # Each is a line.
    for _ in range(8000):
        client.request("GET", "/version")
        assert client.getresponse().read()
    assert_serves(server)
    assert gauge(server, "quire_log_lines_dropped_total") > 0
    # Who reads again has the lines that come then.
    lines = b""
    while chunk := read_some(reader):
        lines += chunk
    assert lines.count(b"route=\"/version\"") > 4000
    os.close(reader)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0


def read_some(pipe):
    """What a pipe has, nothing after a while without anything."""
    for _ in range(20):
        try:
            return os.read(pipe, 1 << 20)
        except BlockingIOError:
            time.sleep(0.05)
    return b""


# Writes below a folder fail, and so does standard error, while the file NOW is there.
BAD_DISK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int fails(int fd) {
    char link[64], path[4096];
    if (access(getenv("BAD_DISK_NOW"), F_OK) != 0) return 0;
    if (fd == 2) return 1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strncmp(path, getenv("BAD_DISK"), strlen(getenv("BAD_DISK"))) == 0;
}

#define BROKEN(type, name, parameters, arguments) \\
    type name parameters { \\
        if (fails(fd)) { errno = EIO; return -1; } \\
        return ((type (*) parameters)dlsym(RTLD_NEXT, #name)) arguments; \\
    }

BROKEN(ssize_t, write, (int fd, const void *from, size_t count), (fd, from, count))
BROKEN(ssize_t, pwrite64, (int fd, const void *from, size_t count, off_t at), (fd, from, count, at))
BROKEN(ssize_t, writev, (int fd, const struct iovec *from, int count), (fd, from, count))
BROKEN(ssize_t, copy_file_range, (int in, off_t *at, int fd, off_t *to, size_t count, unsigned flags), (in, at, fd, to, count, flags))
BROKEN(int, fsync, (int fd), (fd))
BROKEN(int, fdatasync, (int fd), (fd))
"""


@pytest.fixture
def bad_disk(tmp_path):
    """A folder on which writing fails with EIO once the file is there that comes second; the third runs a program with it."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("this machine has no C compiler")
    folder, now, library = tmp_path / "disk", tmp_path / "now", tmp_path / "bad_disk.so"
    folder.mkdir()
    subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-ldl"], input=BAD_DISK.encode(), check=True)
    return folder, now, ["env", f"LD_PRELOAD={library}", f"BAD_DISK={folder}", f"BAD_DISK_NOW={now}"]


def test_a_disk_that_answers_with_errors_stops_nobody(start, bad_disk):
    folder, now, inside = bad_disk
    server = start("--models-dir", folder, program=[*inside, BINARY]).wait_until_ready()
    now.touch()
    assert_serves(server)
    wait_for(lambda: gauge(server, "quire_log_lines_dropped_total") > 0, 20, "lines are counted")
    now.unlink()
    dropped = gauge(server, "quire_log_lines_dropped_total")
    assert_serves(server)
    assert gauge(server, "quire_log_lines_dropped_total") == dropped
    # What is stored is stored whole or not at all, and the file is named.
    (folder / "Modelfile").write_text(f"FROM {MODEL}\n")
    command = [BINARY, "create", "copy", "--file", folder / "Modelfile", "--models-dir", folder]
    now.touch()
    failed = subprocess.run([*inside, *command], stdout=subprocess.PIPE, timeout=120)
    assert failed.returncode == 1
    now.unlink()
    listed = subprocess.run([BINARY, "list", "--models-dir", folder], capture_output=True, text=True, check=True).stdout
    assert "copy" not in listed, listed
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 0


@pytest.fixture
def silent_dns(tmp_path):
    """Runs a program with a name server that takes questions and never answers."""
    try:
        hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        hole.bind(("127.0.0.9", 53))
    except OSError:
        pytest.skip("this machine lets nobody listen on port 53")
    configuration = tmp_path / "resolv.conf"
    configuration.write_text("nameserver 127.0.0.9\n")
    inside = ["unshare", "--mount", "sh", "-c", f'mount --bind {configuration} /etc/resolv.conf && exec "$0" "$@"', "env"]
    inside += [f"--unset={name}" for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")]
    if subprocess.run([*inside, "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount")
    yield inside
    hole.close()


def test_names_that_nobody_resolves_cost_nothing(start, silent_dns):
    flags = ["--otlp-traces-endpoint", "http://collector.example:4318", "--allowed-registries", "registry.example"]
    server = start(*flags, program=[*silent_dns, BINARY]).wait_until_ready()
    ended = []

    def pull():
        body = json.dumps({"model": "registry.example/library/some:latest", "stream": False})
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        client.request("POST", "/api/pull", body, {"Content-Type": "application/json"})
        response = client.getresponse()
        ended.append((response.status, response.read()))

    pulls = [threading.Thread(target=pull) for _ in range(2)]
    with Load(server.port, 3, max_tokens=8) as load:
        for thread in pulls:
            thread.start()
        wait_for(lambda: load.num_answers > 30, 60, "clients are answered")
        assert status_of(f"http://127.0.0.1:{server.health_port}/livez") == 200
    assert load.failures == []
    for thread in pulls:
        thread.join(120)
    assert [status for status, body in ended if status >= 400 and b"registry.example" in body] != [], ended
    assert gauge(server, 'quire_spans_total{result="sent"') == 0
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0


def test_half_a_processor_is_slow_and_alive(cgroup, start):
    quota = {1: {"cpu.cfs_period_us": 100_000, "cpu.cfs_quota_us": 50_000}, 2: {"cpu.max": "50000 100000"}}
    server = start(program=[*cgroup("cpu", quota), BINARY]).wait_until_ready()
    with Load(server.port, 4, max_tokens=16) as load:
        probes = []
        while load.num_answers < 12 and len(probes) < 1000:
            probes += [status_of(f"http://127.0.0.1:{server.health_port}/{path}") for path in ("livez", "readyz")]
            time.sleep(0.05)
    assert load.failures == [] and load.num_answers >= 12
    assert set(probes) == {200}


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


def test_a_cgroup_smaller_than_the_machine_is_what_is_planned_for(cgroup, start):
    inside = [*cgroup("memory", {1: {"memory.limit_in_bytes": 700 << 20}, 2: {"memory.max": 700 << 20}}), BINARY]
    server = start(program=inside).wait_until_ready()
    with Load(server.port, 24, max_tokens=64) as load:
        wait_for(lambda: load.num_answers > 48, 120, "clients are answered")
    assert load.failures == [] and server.is_running(), server.output()[-2000:]
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
