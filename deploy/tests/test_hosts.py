"""The systemd units, Dockerfile, compose files and what releases hold: by their own tools where there are any, else by what they must hold."""

import re
import shutil
import subprocess
import tomllib

import pytest
import sbom
import tools
import yaml
from support import BINARY, DEPLOY, ROOT

# Of 100; the draft of a service without hardening has 96.
MOST_EXPOSURE = 20


@pytest.fixture
def unit(tmp_path):
    """The unit with a program that exists, as systemd-analyze wants."""
    path = tmp_path / "quire.service"
    text = (DEPLOY / "systemd" / "quire.service").read_text()
    assert "ExecStart=/usr/bin/quire " in text
    path.write_text(text.replace("/usr/bin/quire ", f"{BINARY} "))
    return path


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not here")
def test_the_unit_is_valid_and_hardened(unit):
    for command in [["verify"], ["security", "--offline=true", f"--threshold={MOST_EXPOSURE}"]]:
        result = subprocess.run(["systemd-analyze", *command, unit], capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
        # `verify` ends with 0 whatever it says of the unit.
        assert command != ["verify"] or not result.stderr, result.stderr


def test_units_give_time_to_drain():
    text = (DEPLOY / "systemd" / "quire.service").read_text()
    assert seconds(text, r"TimeoutStopSec=(\d+)") > seconds(text, r"--shutdown-timeout (\d+)s")
    for service in compose("compose.yaml", "compose.gpu.yaml"):
        limit = int(service["stop_grace_period"].removesuffix("s"))
        assert limit > seconds(" ".join(service["command"]), r"--shutdown-timeout=(\d+)s")


def test_the_unit_does_not_restart_what_stays_wrong():
    """A flag that is none ends with 2, a model that cannot be used with 65 or 66; a step that hung (70) is tried again."""
    text = (DEPLOY / "systemd" / "quire.service").read_text()
    assert re.search(r"^RestartPreventExitStatus=(.*)$", text, re.MULTILINE).group(1).split() == ["2", "65", "66"]
    assert re.search(r"^Restart=on-failure$", text, re.MULTILINE)


def seconds(text, pattern):
    return int(re.search(pattern, text).group(1))


def compose(*names):
    """The service quire after each file, the later ones laid over."""
    service = {}
    for name in names:
        service = service | yaml.safe_load((DEPLOY / "docker" / name).read_text())["services"]["quire"]
        yield service


def test_flags_exist():
    help_text = subprocess.run([BINARY, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    texts = [(DEPLOY / "systemd" / "quire.service").read_text(), (DEPLOY / "docker" / "Dockerfile").read_text().split("AS cpu\n")[1]]
    texts += [" ".join(service["command"]) for service in compose("compose.yaml", "compose.gpu.yaml")]
    for text in texts:
        lines = [line for line in text.splitlines() if not line.startswith(("#", "COPY"))]
        for flag in re.findall(r"--[a-z-]+", "\n".join(lines)):
            assert re.search(rf"{flag}\s", help_text), flag


def test_containers_run_without_rights():
    services = list(compose("compose.yaml", "compose.gpu.yaml"))
    for service in services:
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
    stages = (DEPLOY / "docker" / "Dockerfile").read_text().split("\nFROM ")
    for stage in stages[-2:]:
        assert "USER 10001:10001" in stage and 'ENTRYPOINT ["/usr/local/bin/quire"]' in stage
        assert "RUN " not in stage, "there is no shell"


def test_compose_mounts_what_is_there():
    services = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        assert re.search(r":v?\d+\.\d+", service["image"]), f"{name}: an image without a version changes by itself"
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            is_file = source.startswith(".")
            assert not is_file or source == "../../models" or (DEPLOY / "docker" / source).exists(), volume


def test_compose_scrapes_as_prometheus_does():
    ours, theirs = [yaml.safe_load((DEPLOY / path).read_text()) for path in ("prometheus/prometheus.yml", "docker/prometheus.yml")]
    assert ours["global"] == theirs["global"]
    assert [job["job_name"] for job in ours["scrape_configs"]] == [job["job_name"] for job in theirs["scrape_configs"]]


def test_the_dockerfile_passes_its_linter():
    result = subprocess.run([tools.SITE / "bin" / "hadolint", DEPLOY / "docker" / "Dockerfile"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_release_workflow_matches_its_schema():
    command = [tools.SITE / "bin" / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", *(ROOT / ".github" / "workflows").glob("*.yml")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_actions_are_named_by_their_hashes():
    """A tag may be moved to other code; a hash cannot. The tag stays as a note."""
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for used in re.findall(r"uses: (.*)", path.read_text()):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used


def test_the_bill_of_materials_has_what_is_linked():
    bill = sbom.bill()
    names = {part["name"] for part in bill["components"]}
    assert {"tokio", "axum", "quire-kernels"} <= names
    assert not {"proptest", "quire-sim", "quire-tests"} & names, "only tests need these"
    references = {part["bom-ref"] for part in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    assert {part["ref"] for part in bill["dependencies"]} == references
    for part in bill["components"]:
        assert part["licenses"] and (part["name"].startswith("quire-") or part["hashes"]), part["name"]


def test_the_debian_package_names_files_that_are_there():
    manifest = tomllib.loads((ROOT / "server" / "Cargo.toml").read_text())["package"]["metadata"]["deb"]
    for source, *_ in manifest["assets"]:
        assert source == "target/release/quire" or (ROOT / "server" / source).is_file(), source
    assert (ROOT / "server" / manifest["systemd-units"]["unit-scripts"] / "quire.service").is_file()
    # Only with it cargo-deb makes the scripts that reload systemd, restart the server after an upgrade and stop it before a removal.
    assert (ROOT / "server" / manifest["maintainer-scripts"]).is_dir()
    # The unit runs the program where the package puts it.
    assert ["target/release/quire", "usr/bin/", "755"] in manifest["assets"]
