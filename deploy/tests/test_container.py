"""As in the image and the Pod: another user without rights, a root that cannot be written, no home, no /tmp, no shell."""

import os
import pathlib
import signal
import subprocess

import pytest
import tools
from support import BINARY, MODEL, Load, Quire

# Of the image without its base, which has 25 MB.
LARGEST_BINARY = 70 << 20


def sandbox():
    """Bubblewrap with nothing but the binary, its libraries and the model."""
    command = [tools.program("bwrap"), "--unshare-all", "--share-net", "--as-pid-1", "--die-with-parent", "--uid", "10001", "--gid", "10001"]
    command += ["--cap-drop", "ALL", "--clearenv", "--proc", "/proc", "--dev", "/dev"]
    for library in libraries():
        command += ["--ro-bind", os.path.realpath(library), library]
    command += ["--ro-bind", BINARY, "/usr/local/bin/quire", "--ro-bind", MODEL, f"/models/{MODEL.name}", "--remount-ro", "/"]
    return command


def libraries():
    """What the dynamic linker finds for the binary, and the linker."""
    output = subprocess.run(["ldd", BINARY], capture_output=True, text=True, check=True).stdout
    return [word for line in output.splitlines() for word in line.split() if word.startswith("/")]


def test_it_needs_nothing_but_the_model():
    allowed = {"libc.so", "libm.so", "libgcc_s.so", "libdl.so", "libpthread.so", "librt.so", "ld-linux"}
    for library in libraries():
        assert any(pathlib.Path(library).name.startswith(name) for name in allowed), f"{library} is not in the image"


def test_a_read_only_root_is_enough():
    if subprocess.run([*sandbox(), "/usr/local/bin/quire", "--version"], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody make namespaces")
    server = Quire("--models-dir", "/models", program=[*sandbox(), "/usr/local/bin/quire"], model=MODEL.name)
    try:
        server.wait_until_ready()
        assert Load(server.port, 0).ask("Why?") is None
        # Bubblewrap's child is the server, the first process of its namespace as in a container.
        (child,) = pathlib.Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        assert server.process.wait(30) == 0, server.output()
    finally:
        server.kill()


def test_the_binary_is_small(tmp_path):
    subprocess.run(["strip", "-o", tmp_path / "quire", BINARY], check=True)
    assert (tmp_path / "quire").stat().st_size < LARGEST_BINARY
