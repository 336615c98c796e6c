"""What a release holds: packed twice it has the same bytes, and the Debian package is unpacked, looked at and run."""

import os
import shutil
import subprocess
import tarfile

import generate
import pytest
import tools
import yaml
from support import BINARY, DEPLOY, ROOT

pytestmark = pytest.mark.long

VERSION = yaml.safe_load((generate.CHART / "Chart.yaml").read_text())["version"]
ENVIRONMENT = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
CARGO_DEB = shutil.which("cargo-deb") or shutil.which("cargo-deb", path=tools.TOOLS / "cargo" / "bin")


def run(*command, **options):
    result = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
    return result.stdout


def test_packing_twice_gives_the_same_bytes(tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder, umask in zip(folders, (0o022, 0o077), strict=True):
        folder.mkdir()
        run(ROOT / ".ci" / "package", VERSION, folder, umask=umask)
    first, second = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert sorted(first) == sorted(second) and len(first) == 3
    assert [name for name in first if first[name] != second[name]] == []

    generate.helm("lint", "--strict", folders[0] / f"quire-{VERSION}.tgz")
    (archive,) = folders[0].glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.glob("quire-*-linux")
    assert VERSION in run(folder / "quire", "--version")
    assert (folder / "prometheus" / "rules" / "alerts.yml").read_bytes() == (DEPLOY / "prometheus" / "rules" / "alerts.yml").read_bytes()


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    if not CARGO_DEB:
        pytest.skip("no cargo-deb: cargo install --locked --root deploy/.tools/cargo cargo-deb")
    folder = tmp_path_factory.mktemp("deb")
    for name in ("first", "second"):
        run(CARGO_DEB, "deb", "--package", "quire-server", "--no-build", "--output", folder / f"{name}.deb")
    assert (folder / "first.deb").read_bytes() == (folder / "second.deb").read_bytes()
    run("dpkg-deb", "--raw-extract", folder / "first.deb", folder / "root")
    return folder


def test_the_debian_package_holds_what_runs(package):
    root = package / "root"
    fields = dict(line.split(": ", 1) for line in (root / "DEBIAN" / "control").read_text().splitlines() if not line.startswith(" ") and ": " in line)
    assert fields["Package"] == "quire" and fields["Version"].startswith(VERSION) and "libc6" in fields["Depends"]
    assert (root / "DEBIAN" / "conffiles").read_text().split() == ["/etc/default/quire"]
    for script in ("postinst", "prerm", "postrm"):
        run("sh", "-n", root / "DEBIAN" / script)
    assert VERSION in run(root / "usr" / "bin" / "quire", "--version")
    assert (root / "usr" / "bin" / "quire").stat().st_size < BINARY.stat().st_size, "stripped"
    owners = {line.split()[1] for line in run("dpkg-deb", "--contents", package / "first.deb").splitlines()}
    assert owners <= {"root/root", "0/0"}


def test_the_unit_of_the_package_is_valid(package):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not here")
    root = package / "root"
    (unit,) = [path for folder in ("lib", "usr/lib") for path in (root / folder / "systemd" / "system").glob("quire.service")]
    assert unit.read_bytes() == (DEPLOY / "systemd" / "quire.service").read_bytes()
    result = subprocess.run(["systemd-analyze", f"--root={root}", "verify", "quire.service"], capture_output=True, text=True)
    # Of the machine's own units there are none in the package.
    complaints = [line for line in result.stderr.splitlines() if "quire.service" in line]
    assert complaints == [], result.stderr
