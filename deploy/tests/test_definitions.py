"""Custom resources against the definitions in deploy/.tools/crds, as `kubectl get crd NAME -o yaml` prints them: schemas and rules in CEL."""

import copy

import celpy
import jsonschema
import pytest
import tools
import yaml
from test_chart import VALUES, rendered


@pytest.fixture(scope="module")
def schemas():
    """By the version and the kind."""
    schemas = {}
    for path in (tools.TOOLS / "crds").glob("*.yaml"):
        definition = yaml.safe_load(path.read_text())["spec"]
        for version in definition["versions"]:
            schemas[f"{definition['group']}/{version['name']}", definition["names"]["kind"]] = version["schema"]["openAPIV3Schema"]
    if not schemas:
        pytest.skip("no definitions in deploy/.tools/crds")
    return schemas


def custom_resources(schemas):
    documents = [document for name in VALUES for document in rendered(name)]
    return [document for document in documents if kind_of(document) in schemas]


def kind_of(document):
    return document["apiVersion"], document["kind"]


def mistakes(schemas, document):
    """What an API server would say of it."""
    schema = strict(schemas[kind_of(document)])
    schema["properties"]["metadata"] = {"type": "object"}
    # Not `validate`, which would also check the schema: it has patterns of Go.
    found = [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(document)]
    return found or broken_rules(schemas[kind_of(document)], copy.deepcopy(document))


def strict(schema):
    """A schema of Kubernetes that refuses fields it does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {}
    schema = {key: strict(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        schema["additionalProperties"] = False
    return schema


def broken_rules(schema, value):
    """The messages of the rules in CEL that a value breaks; what it leaves out has its default first."""
    found = []
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if "default" in part:
                value.setdefault(name, copy.deepcopy(part["default"]))
            if name in value:
                found += broken_rules(part, value[name])
    elif isinstance(value, list):
        for one in value:
            found += broken_rules(schema.get("items", {}), one)
    # Rules of changes have nothing to compare with.
    rules = [rule for rule in schema.get("x-kubernetes-validations", []) if "oldSelf" not in rule["rule"]]
    return found + [rule["message"] for rule in rules if not holds(rule["rule"], value)]


def holds(rule, value):
    environment = celpy.Environment()
    return bool(environment.program(environment.compile(rule)).evaluate({"self": celpy.json_to_cel(value)}))


def test_custom_resources_match_their_definitions(schemas):
    documents = custom_resources(schemas)
    assert [(kind_of(document), found) for document in documents if (found := mistakes(schemas, document))] == []
    assert {kind_of(document) for document in documents} == set(schemas)


@pytest.mark.parametrize(
    ("kind", "change", "complaint"),
    [
        # By rules in CEL.
        ("InferencePool", lambda spec: spec["endpointPickerRef"].pop("port"), "port is required when kind is 'Service'"),
        ("InferencePool", lambda spec: spec["targetPorts"].append(spec["targetPorts"][0]), "port number must be unique"),
        ("ScaledObject", lambda spec: spec.update(minReplicaCount=9, maxReplicaCount=1), "minReplicaCount must be less"),
        # By schemas, and for fields that nobody knows.
        ("InferencePool", lambda spec: spec["targetPorts"][0].update(number=70000), "greater than the maximum"),
        ("ServiceMonitor", lambda spec: spec.update(endpoint=[]), "'endpoint' was unexpected"),
    ],
)
def test_mistakes_in_custom_resources_are_found(schemas, kind, change, complaint):
    documents = [document for document in custom_resources(schemas) if document["kind"] == kind]
    if not documents:
        pytest.skip(f"no definition of {kind} in deploy/.tools/crds")
    change(documents[0]["spec"])
    assert any(complaint in found for found in mistakes(schemas, documents[0]))
