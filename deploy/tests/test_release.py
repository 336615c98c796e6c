"""What a release holds: packed twice it has the same bytes."""

import os
import subprocess
import tarfile

import generate
import pytest
import yaml
from support import DEPLOY, ROOT

pytestmark = pytest.mark.long

VERSION = yaml.safe_load((generate.CHART / "Chart.yaml").read_text())["version"]
ENVIRONMENT = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}


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
