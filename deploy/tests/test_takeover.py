"""Two servers behind a real proxy, under load: one is asked to leave, or is killed, and the other takes over."""

import pathlib
import signal
import time

import pytest
import tools
from support import Load, Process, Quire, free_port, status_of, wait_for

# The proxy looks every 200 ms and believes the second red answer; a busy machine may be late.
DELAY = 4
CONFIG = """
defaults
    mode http
    timeout connect 2s
    timeout client 120s
    timeout server 120s
    # A connection that was refused took nothing with it: the other server is asked.
    retries 3
    option redispatch 1
    retry-on conn-failure

frontend clients
    bind 127.0.0.1:{port}
    default_backend servers

backend servers
    balance leastconn
    option httpchk GET /readyz
    http-check expect status 200
    default-server check inter 200ms fall 2 rise 1
{servers}
"""


class Proxy(Process):
    def __init__(self, servers, folder):
        self.port = free_port()
        lines = [f"    server s{server.port} 127.0.0.1:{server.port} port {server.health_port}" for server in servers]
        path = pathlib.Path(folder) / "haproxy.cfg"
        path.write_text(CONFIG.format(port=self.port, servers="\n".join(lines)))
        super().__init__(tools.program("haproxy"), "-f", path, environment=tools.environment())


def start(port=None, health_port=None):
    flags = ["--threads", "1", "--shutdown-delay", f"{DELAY}s", "--shutdown-timeout", "60s"]
    return Quire(*flags, port=port, health_port=health_port)


@pytest.fixture
def behind_proxy(tmp_path):
    """Two servers and the proxy, all of them ready; what is started later may be added."""
    processes = [start(), start()]
    servers = processes[:]
    for server in servers:
        server.wait_until_ready()
    processes.append(Proxy(servers, tmp_path))
    proxy = processes[-1]
    wait_for(lambda: status_of(f"http://127.0.0.1:{proxy.port}/readyz") == 200, 20, f"the proxy is ready\n{proxy.output()}")
    yield servers, proxy, processes
    for process in processes:
        process.kill()


def is_ready(server):
    return status_of(f"http://127.0.0.1:{server.health_port}/readyz") == 200


def restarted(server, processes):
    """A server in the place of one that has ended, ready."""
    processes.append(start(server.port, server.health_port))
    return processes[-1].wait_until_ready()


def answers_from_now_on(load, count=10):
    """Waits until so many more clients have been answered."""
    goal = load.num_answers + count
    wait_for(lambda: load.num_answers >= goal, 120, "clients are answered")


def test_a_server_that_leaves_fails_nobody(behind_proxy):
    servers, proxy, processes = behind_proxy
    with Load(proxy.port, num_clients=6) as load, Load(proxy.port, num_clients=2, stream=False) as whole:
        answers_from_now_on(load)
        for leaving, staying in [(0, 1), (1, 0)]:
            leaving, staying = servers[leaving], servers[staying]
            leaving.process.send_signal(signal.SIGTERM)
            wait_for(lambda server=leaving: not is_ready(server), DELAY / 2, "readiness is red")
            # Red, and still at work: routers that have not looked yet send requests.
            assert Load(leaving.port, 0, max_tokens=2).ask("Who comes late?") is None
            answers_from_now_on(load)
            assert leaving.process.wait(90) == 0, leaving.output()
            answers_from_now_on(load)
            assert is_ready(staying)
            servers[servers.index(leaving)] = restarted(leaving, processes)
        answers_from_now_on(load)
    assert load.failures + whole.failures == []


def test_a_server_that_is_killed_fails_only_what_it_had(behind_proxy):
    (first, second), proxy, processes = behind_proxy
    num_clients = 6
    with Load(proxy.port, num_clients) as load:
        answers_from_now_on(load)
        first.kill()
        killed = time.monotonic()
        answers_from_now_on(load, 20)
        # The same ports, and nothing of the one before in the way.
        restarted(first, processes)
        answers_from_now_on(load, 20)
    assert len(load.failures) <= num_clients
    assert all(when - killed < 2 for when, _ in load.failures), load.failures
    assert second.is_running()


@pytest.mark.long
def test_rolling_restarts_fail_nobody(behind_proxy):
    servers, proxy, processes = behind_proxy
    with Load(proxy.port, num_clients=12) as load, Load(proxy.port, num_clients=4, stream=False) as whole:
        for turn in range(8):
            leaving = servers[turn % 2]
            answers_from_now_on(load)
            leaving.process.send_signal(signal.SIGTERM)
            assert leaving.process.wait(90) == 0, leaving.output()
            servers[turn % 2] = restarted(leaving, processes)
            wait_for(lambda server=servers[turn % 2]: server.served() > 0, 60, "the new server gets its share")
    assert load.failures + whole.failures == []
