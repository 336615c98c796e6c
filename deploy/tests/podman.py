"""Podman and runc from Debian's packages, unpacked: with a store of their own, and nothing of the machine's settings."""

import os
import shutil
import subprocess
import sys

import tools


class Podman:
    """Podman with its images and containers in `folder`; `close` removes them."""

    def __init__(self, folder):
        self.folder = folder
        libraries = ":".join(str(path) for path in (tools.PODMAN / "usr" / "lib").glob("*-linux-gnu"))
        (folder / "registries.conf").touch()
        policy = folder / ".config" / "containers" / "policy.json"
        policy.parent.mkdir(parents=True)
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        own = {"HOME": str(folder), "LD_LIBRARY_PATH": libraries, "PATH": os.environ["PATH"]}
        # Without systemd nobody may have more descriptors than the one who starts the container.
        (folder / "containers.conf").write_text(f"""
[containers]
seccomp_profile = "{tools.PODMAN}/usr/share/containers/seccomp.json"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
conmon_path = ["{tools.PODMAN}/usr/bin/conmon"]
conmon_env_vars = [{", ".join(f'"{name}={value}"' for name, value in own.items())}]
runtime = "runc"
events_logger = "file"
[engine.runtimes]
runc = ["{tools.PODMAN}/usr/sbin/runc"]
""")
        settings = {"CONTAINERS_CONF": folder / "containers.conf", "CONTAINERS_REGISTRIES_CONF": folder / "registries.conf"}
        self.environment = os.environ | own | {name: str(path) for name, path in settings.items()}
        stores = f"--root {folder}/store --runroot {folder}/run --tmpdir {folder}/tmp"
        # One program, as podman-compose wants.
        self.program = folder / "podman"
        self.program.write_text(f'#!/bin/sh\nexec {tools.PODMAN}/usr/bin/podman {stores} --cgroup-manager cgroupfs --storage-driver vfs "$@"\n')
        self.program.chmod(0o755)

    def __call__(self, *arguments, is_checked=True, **options):
        """What Podman prints."""
        result = subprocess.run([self.program, *arguments], env=self.environment, capture_output=True, text=True, timeout=300, **options)
        assert not is_checked or result.returncode == 0, f"{arguments}: {result.stdout}{result.stderr}"
        return result.stdout.strip()

    def compose(self, *arguments):
        environment = self.environment | {"PYTHONPATH": str(tools.SITE)}
        command = [sys.executable, "-m", "podman_compose", "--podman-path", self.program, *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def inspect(self, container, what):
        return self("inspect", "--format", f"{{{{.{what}}}}}", container)

    def logs(self, container):
        """What a container wrote, to either stream."""
        result = subprocess.run([self.program, "logs", container], env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return result.stdout

    def close(self):
        self("rm", "--all", "--force", is_checked=False)
        # Podman remounts its store onto itself.
        subprocess.run(["umount", "--lazy", self.folder / "store" / "vfs"], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)
