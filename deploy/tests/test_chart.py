"""The chart renders to valid manifests for all its values, hardened, with flags that the server has."""

import json
import re
import subprocess
import sys

import generate
import pytest
import tools
import yaml
from support import BINARY, DEPLOY

VALUES = {path.stem: path for path in sorted((DEPLOY / "tests" / "values").glob("*.yaml"))}
# The oldest version that the chart says it needs, and the newest that is known; volumes of images came with 1.33.
VERSIONS = ["1.33", "1.36"]


def render(*options):
    return [document for document in yaml.safe_load_all(generate.helm("template", "quire", generate.CHART, *options)) if document]


def rendered(name):
    return render("--namespace", "quire", *(["--values", VALUES[name]] if name != "defaults" else []))


@pytest.fixture(scope="module", params=["defaults", *VALUES])
def documents(request):
    return rendered(request.param)


def pods(documents):
    """The Pods' specifications, of whatever makes them."""
    for document in documents:
        spec = document["spec"] if "spec" in document else {}
        if document["kind"] == "Deployment":
            yield spec["template"]["spec"]
        elif document["kind"] == "LeaderWorkerSet":
            yield spec["leaderWorkerTemplate"]["workerTemplate"]["spec"]


def test_lint():
    generate.helm("lint", "--strict", generate.CHART)
    for path in VALUES.values():
        generate.helm("lint", "--strict", generate.CHART, "--values", path)


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_match_the_schemas_of_kubernetes(version, tmp_path):
    for name in ["defaults", *VALUES]:
        documents = rendered(name)
        # Pods of custom resources, which have no schema there.
        metadata = {"name": "pod"}
        documents += [{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod} for pod in pods(documents)]
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump_all(documents))
        command = [sys.executable, tools.SITE / "bin" / "kubernetes-validate", "--strict", "--kubernetes-version", version, path]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr


def test_pods_are_hardened(documents):
    for pod in pods(documents):
        assert pod["automountServiceAccountToken"] is False
        # Else a Service called quire gives the server variables that it refuses.
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"]["memory"] and container["resources"]["limits"]["memory"]
        mounts = [mount for container in pod["containers"] for mount in container["volumeMounts"]]
        assert all(mount["readOnly"] for mount in mounts)


def test_pods_have_time_to_drain(documents):
    for pod in pods(documents):
        (container,) = pod["containers"]
        seconds = {flag: int(value.removesuffix("s")) for flag, _, value in (arg.partition("=") for arg in container["args"]) if "shutdown" in flag}
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert pod["terminationGracePeriodSeconds"] > before + seconds["--shutdown-delay"] + seconds["--shutdown-timeout"]
        # Routers must have seen the red probe, twice, before anyone is refused.
        probe = container["readinessProbe"]
        assert seconds["--shutdown-delay"] > probe["periodSeconds"] * probe["failureThreshold"]


def test_probes_have_their_meaning(documents):
    for pod in pods(documents):
        (container,) = pod["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports["http"] != ports["health"]
        for probe, path in [("startupProbe", "/startupz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")]:
            assert container[probe]["httpGet"] == {"path": path, "port": "health"}


def test_a_pod_says_why_it_ended(documents):
    for pod in pods(documents):
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["terminationMessagePolicy"] == "FallbackToLogsOnError", container["name"]


def test_the_server_has_the_flags(documents):
    help_text = subprocess.run([BINARY, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    for pod in pods(documents):
        for arg in pod["containers"][0]["args"]:
            flag = arg.partition("=")[0]
            assert not flag.startswith("--") or re.search(rf"{flag}\s", help_text), flag


def test_selectors_find_their_pods(documents):
    for document in documents:
        if document["kind"] == "Deployment":
            labels = document["spec"]["template"]["metadata"]["labels"]
            selectors = [other["spec"]["selector"] for other in documents if other["kind"] in ("Service", "PodDisruptionBudget", "InferencePool")]
            selectors += [other["spec"]["podSelector"] for other in documents if other["kind"] == "NetworkPolicy"]
            for selector in selectors:
                wanted = selector.get("matchLabels", selector)
                assert wanted.items() <= labels.items()


def test_rules_and_dashboards_are_those_of_the_repository():
    documents = rendered("everything")
    (rule,) = [document for document in documents if document["kind"] == "PrometheusRule"]
    files = sorted((DEPLOY / "prometheus" / "rules").glob("*.yml"))
    assert rule["spec"]["groups"] == [group for path in files for group in yaml.safe_load(path.read_text())["groups"]]
    boards = [json.loads(text) for document in documents if document["kind"] == "ConfigMap" for text in document["data"].values()]
    assert boards == [json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana").glob("*.json"))]


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("probe.path=/", "probe"),
        ("model.source=nfs", "model.source"),
        ("model.name=", "model.name"),
        ("replicas=-1", "replicas"),
        ("ports.http=70000", "ports.http"),
        ("image.digest=latest", "image.digest"),
        ("gpu.count=one", "gpu.count"),
        ("model.source=image", "model.image.reference"),
        ("model.download.enabled=true", "model.download.name"),
        ("autoscaling.hpa.enabled=true,autoscaling.keda.enabled=true", "enable one"),
        ("leaderWorkerSet.enabled=true,autoscaling.hpa.enabled=true", "leaderWorkerSet"),
    ],
)
def test_mistakes_in_values_are_named(setting, complaint):
    with pytest.raises(RuntimeError, match=complaint):
        render("--set", setting)


def test_every_value_has_a_schema():
    def compare(value, schema, path):
        if isinstance(value, dict) and "properties" in schema:
            assert schema["additionalProperties"] is False, path
            assert set(schema["properties"]) - {"global"} == set(value), path
            for key in value:
                compare(value[key], schema["properties"][key], f"{path}.{key}")

    chart = generate.CHART
    compare(yaml.safe_load((chart / "values.yaml").read_text()), json.loads((chart / "values.schema.json").read_text()), "")
