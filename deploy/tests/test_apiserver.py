"""Custom resources of the chart against an API server that has their definitions: unknown fields, schemas, rules in CEL.

Needs deploy/.tools/crds, as `kubectl get crd NAME -o yaml` prints them, and deploy/.tools/apiserver, which `apiserver.py` makes.
"""

import copy

import pytest
import tools
import yaml
from apiserver import PROGRAMS, ApiServer
from support import wait_for
from test_chart import VALUES, rendered

pytestmark = pytest.mark.long

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not all(program.exists() for program in PROGRAMS):
        pytest.skip("no API server in deploy/.tools/apiserver: apiserver.py makes it")
    server = ApiServer(tmp_path_factory.mktemp("apiserver"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def paths(server):
    """Where objects are sent, by the version and the kind."""
    definitions = [yaml.safe_load(path.read_text()) for path in (tools.TOOLS / "crds").glob("*.yaml")]
    if not definitions:
        pytest.skip("no definitions in deploy/.tools/crds")
    for definition in definitions:
        status, answer = server.ask("POST", DEFINITIONS, definition)
        assert status == 201, answer["message"]
    paths = {}
    for definition in definitions:
        spec = definition["spec"]
        for version in spec["versions"]:
            path = f"/apis/{spec['group']}/{version['name']}/namespaces/quire/{spec['names']['plural']}"
            wait_for(lambda path=path: server.ask("GET", path)[0] == 200, 30, path)
            paths[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = path
    return paths


def create(server, paths, document):
    return server.ask("POST", paths[document["apiVersion"], document["kind"]] + "?fieldValidation=Strict&dryRun=All", document)


def custom_resources(paths):
    documents = [document for name in VALUES for document in rendered(name)]
    return [document for document in documents if (document["apiVersion"], document["kind"]) in paths]


def test_the_api_server_takes_what_the_chart_makes(server, paths):
    documents = custom_resources(paths)
    for document in documents:
        status, answer = create(server, paths, document)
        assert status == 201, f"{document['kind']}: {answer['message']}"
    kinds = {path for path in paths.values() for document in documents if path == paths[document["apiVersion"], document["kind"]]}
    assert {path.rpartition("/")[2] for path in kinds} == {path.rpartition("/")[2] for path in paths.values()}, "a definition that nothing was tried against"


@pytest.mark.parametrize(
    ("kind", "change", "complaint"),
    [
        # By rules in CEL.
        ("InferencePool", lambda spec: spec["endpointPickerRef"].pop("port"), "port is required when kind is 'Service'"),
        ("InferencePool", lambda spec: spec["targetPorts"].append(spec["targetPorts"][0]), "port number must be unique"),
        ("ScaledObject", lambda spec: spec.update(minReplicaCount=9, maxReplicaCount=1), "minReplicaCount must be less"),
        # By schemas, and for fields that nobody knows.
        ("InferencePool", lambda spec: spec["targetPorts"][0].update(number=70000), "less than or equal to 65535"),
        ("ServiceMonitor", lambda spec: spec.update(endpoint=[]), 'unknown field "spec.endpoint"'),
    ],
)
def test_mistakes_are_refused(server, paths, kind, change, complaint):
    document = copy.deepcopy(next(one for one in custom_resources(paths) if one["kind"] == kind))
    change(document["spec"])
    status, answer = create(server, paths, document)
    assert status in (400, 422) and complaint in answer["message"], answer
