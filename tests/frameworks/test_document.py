"""schemathesis makes requests of our own document: no answer is a 500, and every answer is as the document says."""

import json
import os

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# Of each route; more of them now and then.
EXAMPLES = int(os.environ.get("QUIRE_DOCUMENT_EXAMPLES", "4"))
# What is never there is a 501.
ABSENT = ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"]
OPTIONS = {"max_examples": EXAMPLES, "deadline": None, "derandomize": True, "database": None}


@pytest.fixture(scope="module")
def document(server):
    return schemathesis.openapi.from_dict(json.loads(server.get("/openapi.json")))


def check(operation, server):
    @settings(**OPTIONS, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def answers(case):
        if isinstance(case.body, dict):
            # Short answers: this is about requests.
            case.body.pop("max_completion_tokens", None)
            case.body |= {"max_tokens": 1, "max_output_tokens": 1}
            if isinstance(options := case.body.get("options"), dict):
                options["num_predict"] = 1
        case.call_and_validate(base_url=server.url, headers=server.headers, checks=CHECKS, timeout=60)

    answers()


def test_answers_are_as_documented(document, server):
    operations = [result.ok() for result in document.get_all_operations()]
    assert len(operations) > 40
    for operation in operations:
        if operation.path not in ABSENT:
            check(operation, server)
