"""More of everything than a server can take: connections, clients that leave, scrapes, large bodies."""

import http.client
import json
import pathlib
import resource
import socket
import threading
import time

from support import BINARY, Load, assert_serves, gauge, status_of, wait_for

GET = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connected(port, number):
    """From one of several addresses, each of which has its own ports."""
    client = socket.socket()
    client.settimeout(60)
    client.bind((f"127.0.0.{2 + number % 8}", 0))
    client.connect(("127.0.0.1", port))
    return client


def resident_bytes(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def test_fifteen_thousand_connections(start):
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(15_000, allowed[1] - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed[1], allowed[1]))
    server = start("--max-connections", str(count), "--header-read-timeout", "600s", "--idle-timeout", "600s").wait_until_ready()
    assert_serves(server)
    wait_for(lambda: gauge(server, "quire_requests_in_flight") == 0, 20, "it is idle")
    before = resident_bytes(server)
    try:
        clients = [connected(server.port, number) for number in range(count)]
        wait_for(lambda: gauge(server, "process_open_fds") >= count, 60, "all are accepted")
        # None of them has asked yet, so none is idle: the next is refused at once. Probes have a port of their own.
        with connected(server.port, 0) as refused:
            assert refused.recv(1000).startswith(b"HTTP/1.1 503")
        assert status_of(f"http://127.0.0.1:{server.health_port}/livez") == 200
        for client in clients:
            client.sendall(GET)
        for client in clients:
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        each = (resident_bytes(server) - before) / count
        print(f"\n{count} connections, {each / 1024:.1f} KiB each")
        assert each < 20_000
        # Now they are idle, and give way.
        assert_serves(server)
        assert status_of(f"http://127.0.0.1:{server.health_port}/livez") == 200
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
    wait_for(lambda: gauge(server, "process_open_fds") < 100, 60, "all are gone")


def test_a_thousand_clients_that_leave_at_once_leave_nothing_behind(start):
    server = start("--max-num-queued-reqs", "2000").wait_until_ready()
    body = json.dumps({"prompt": "Count:", "max_tokens": 1000, "ignore_eos": True, "stream": True})
    clients = []
    for _ in range(1000):
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        client.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        clients.append(client)

    def num_unfinished():
        return gauge(server, "vllm:num_requests_running{") + gauge(server, "vllm:num_requests_waiting{")

    wait_for(lambda: gauge(server, "vllm:num_requests_running{") > 100 and num_unfinished() > 900, 60, "they run, or wait")
    for client in clients:
        client.sock.close()
    wait_for(lambda: num_unfinished() == 0, 30, "they are gone")
    assert gauge(server, "vllm:kv_cache_usage_perc{") == 0
    assert_serves(server)


def test_a_storm_of_scrapes_and_lists_fails_nobody(start):
    """A hundred scrapes a second, and lists of models as fast as they come."""
    server = start().wait_until_ready()
    statuses, ending = [], threading.Event()

    def ask(port, path, pause):
        while not ending.is_set():
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            client.request("GET", path)
            response = client.getresponse()
            response.read()
            client.close()
            statuses.append(response.status)
            time.sleep(pause)

    storm = [threading.Thread(target=ask, args=(server.health_port, "/metrics", 0.04)) for _ in range(4)]
    storm += [threading.Thread(target=ask, args=(server.port, "/v1/models", 0)) for _ in range(2)]
    with Load(server.port, 4) as load:
        wait_for(lambda: load.num_answers >= 12, 60, "clients are answered")
        for thread in storm:
            thread.start()
        time.sleep(3)
        calm = load.num_answers
        wait_for(lambda: load.num_answers >= calm + 12, 60, "clients are answered in the storm")
        ending.set()
        for thread in storm:
            thread.join(60)
    assert load.failures == []
    assert set(statuses) == {200} and len(statuses) > 300, len(statuses)


def test_large_bodies_are_refused_before_memory_runs_out(cgroup, start):
    """Parsed, a body takes many times its bytes: all at once they would fill the cgroup, and the system would kill the server."""
    inside = cgroup("memory", {1: {"memory.limit_in_bytes": 700 << 20}, 2: {"memory.max": 700 << 20}})
    server = start(program=[*inside, BINARY]).wait_until_ready()
    size = 15 << 20
    message = b'{"role":"user","content":"a"}'
    bodies = {
        "/v1/completions": b'{"prompt":[' + b"1," * (size // 2) + b"1]}",
        "/v1/chat/completions": b'{"messages":[' + (message + b",") * (size // 30) + message + b"]}",
    }
    answers = []

    def post(path, body):
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        try:
            client.request("POST", path, body, {"Content-Type": "application/json"})
            answers.append(client.getresponse().status)
        except OSError:
            # Refused while it was sending.
            answers.append(503)

    for path, body in bodies.items():
        threads = [threading.Thread(target=post, args=(path, body)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert server.is_running(), f"it was killed\n{server.output()[-2000:]}"
    assert set(answers) == {400, 503}, answers
    # What says that it is larger than any may be is told so before it comes.
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000000\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 413")
    assert_serves(server)
