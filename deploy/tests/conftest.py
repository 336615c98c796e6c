"""What tests of deploy/ share: the rules, servers and cgroups that end with a test, and that long tests can be left out."""

import os
import pathlib
import shutil
import sys

import pytest
import yaml
from support import Quire, wait_for

DEPLOY = pathlib.Path(__file__).resolve().parents[1]
CGROUPS = pathlib.Path("/sys/fs/cgroup")
sys.path.insert(0, str(DEPLOY))


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes more than some seconds; continuous integration leaves it out")


@pytest.fixture(scope="session")
def alerts():
    """The alert rules by their names."""
    groups = yaml.safe_load((DEPLOY / "prometheus/rules/alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@pytest.fixture
def cgroup():
    """Makes cgroups of a controller below this process's own: what runs a program inside, before the program."""
    folders = []

    def make(controller, settings):
        """`settings`: files and what is written into them, of version 1 and of version 2."""
        folder, version = place_of_cgroup(controller)
        try:
            folder.mkdir()
            for name, value in settings[version].items():
                (folder / name).write_text(str(value))
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            pytest.skip("this machine lets nobody make cgroups")
        folders.append(folder)
        return ["sh", "-c", f'echo $$ > {folder}/cgroup.procs; exec "$0" "$@"']

    yield make
    for folder in folders:
        wait_for(lambda folder=folder: not (folder / "cgroup.procs").read_text(), 20, "the cgroup is empty")
        folder.rmdir()


def place_of_cgroup(controller):
    """Where a new one goes, and which version it is of."""
    lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
    paths = {name: path for line in lines for names, path in [line.split(":")[1:]] for name in names.split(",")}
    version = 1 if controller in paths else 2
    base, path = (CGROUPS / controller, paths[controller]) if version == 1 else (CGROUPS, paths[""])
    return base / path.lstrip("/") / f"quire-test-{os.getpid()}", version


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
