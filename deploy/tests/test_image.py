"""The image and compose's service of it under podman and runc: built, started, asked, killed, stopped."""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import pytest
import tools
import yaml
from podman import Podman
from support import BINARY, DEPLOY, MODEL, Load, free_port, status_of, wait_for
from test_container import libraries

pytestmark = pytest.mark.long

MEMORY_MIB = 512
CONTAINER = "quire_quire_1"


@pytest.fixture(scope="module")
def podman():
    if os.geteuid() != 0:
        pytest.skip("limits of memory want root")
    if not tools.debian_packages(tools.PODMAN, tools.PODMAN_PACKAGES):
        pytest.skip("Podman cannot be had from Debian's packages here")
    # A short path: runc and conmon have sockets there.
    podman = Podman(pathlib.Path(tempfile.mkdtemp(prefix="quire-podman-")))
    yield podman
    podman.close()


@pytest.fixture(scope="module")
def image(podman):
    """The Dockerfile's last stage for CPUs as it stands, upon the libraries that its base has of those the binary needs."""
    stage = "FROM " + (DEPLOY / "docker" / "Dockerfile").read_text().split("\nFROM ")[-2]
    base = stage.split()[1]
    root, built = podman.folder / "base", podman.folder / "built"
    built.mkdir()
    subprocess.run(["strip", "-o", built / "quire", BINARY], check=True)
    for library in libraries():
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    subprocess.run(["tar", "-C", root, "-cf", podman.folder / "base.tar", "."], check=True)
    try:
        podman("import", podman.folder / "base.tar", base)
    except AssertionError as error:
        pytest.skip(f"this machine lets nobody have containers: {error}")
    (podman.folder / "Containerfile").write_text(stage)
    # --isolation: what is built here runs nothing.
    options = ["--isolation=chroot", "--pull=never", f"--build-context=build-cpu={built}", "--file", podman.folder / "Containerfile"]
    podman("build", *options, "--tag", f"localhost/{service()['image']}", built)


def service():
    return yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())["services"]["quire"]


@pytest.fixture(scope="module")
def compose(podman, image):
    """compose.yaml's own service quire, with other ports, less memory, one model, and the machine's network."""
    podman.port, podman.health_port = free_port(), free_port()
    flags = [flag for flag in service()["command"][1:] if not flag.startswith(("--host", "--health-port"))]
    changes = {
        "command": ["serve", MODEL.name, "--host=127.0.0.1", f"--port={podman.port}", f"--health-port={podman.health_port}", *flags],
        "network_mode": "host",
        "mem_limit": f"{MEMORY_MIB}m",
        # Timers are systemd's: the test is the timer.
        # What is a list is gone on with.
        "healthcheck": {"test": [f"--url=http://127.0.0.1:{podman.port}"], "interval": "disable"},
    }
    path = podman.folder / "changes.yaml"
    # A network of its own would want rights that a test has nowhere.
    path.write_text(yaml.safe_dump({"services": {"quire": changes}}) + "    ports: !reset []\n")
    files = ["--file", DEPLOY / "docker" / "compose.yaml", "--file", path]
    podman.compose(*files, "up", "--detach", "--no-build", "--no-deps", "quire")
    wait_until_ready(podman)
    return files


def wait_until_ready(podman):
    def is_ready():
        state = podman.inspect(CONTAINER, "State.Status")
        assert state in ("created", "running", "stopping", "stopped", "exited"), state
        return status_of(f"http://127.0.0.1:{podman.health_port}/readyz") == 200

    wait_for(is_ready, 120, "the container is ready")


def test_compose_files_are_understood(podman):
    for names in [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]]:
        files = [part for name in names for part in ("--file", DEPLOY / "docker" / name)]
        services = yaml.safe_load(podman.compose(*files, "config"))["services"]
        assert services["quire"]["build"]["target"] == ("cuda" if len(names) > 1 else "cpu")


def test_the_container_has_no_rights(podman, compose):
    pid = podman.inspect(CONTAINER, "State.Pid")
    status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"10001"}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    root = [line.split() for line in pathlib.Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    modes = {fields[4]: fields[5].split(",")[0] for fields in root}
    assert modes["/"] == "ro" and modes["/models"] == "ro"


def test_the_limit_of_memory_is_what_is_planned_for(podman, compose):
    lines = podman.logs(CONTAINER).splitlines()
    (free,) = [line.split()[-2:] for line in lines if line.strip().startswith("memory free")]
    assert free[1] == "MiB" and MEMORY_MIB / 2 < float(free[0]) <= MEMORY_MIB
    with Load(podman.port, 16, max_tokens=64) as load:
        wait_for(lambda: load.num_answers > 32, 120, "clients are answered")
    assert load.failures == [] and podman.inspect(CONTAINER, "RestartCount") == "0"


def test_the_health_check_is_green(podman, compose):
    podman("healthcheck", "run", CONTAINER)


def test_a_killed_server_comes_back(podman, compose):
    os.kill(int(podman.inspect(CONTAINER, "State.Pid")), signal.SIGKILL)
    wait_for(lambda: podman.inspect(CONTAINER, "RestartCount") == "1", 60, "the container is started again")
    wait_until_ready(podman)
    assert Load(podman.port, 0).ask("Still there?") is None


def test_stopping_drains(podman, compose):
    with Load(podman.port, 2, max_tokens=200) as load:
        wait_for(lambda: load.num_answers > 2, 60, "clients are answered")
        stopped_at = time.monotonic()
        podman.compose(*compose, "stop", "quire")
        load.stopping.set()
    wait_for(lambda: podman.inspect(CONTAINER, "State.Status") == "exited", 30, "the container has ended")
    assert podman.inspect(CONTAINER, "State.ExitCode") == "0" and podman.inspect(CONTAINER, "State.OOMKilled") == "false"
    # Those that ran when it was told were answered whole; the others found nobody, or were told to come later.
    assert all(at >= stopped_at and "cut off" not in failure for at, failure in load.failures), load.failures
    assert "draining" in podman.logs(CONTAINER)
