"""What tests of deploy/ share: the rules, and that long tests can be left out."""

import pathlib
import sys

import pytest
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(DEPLOY))


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes more than some seconds; continuous integration leaves it out")


@pytest.fixture(scope="session")
def alerts():
    """The alert rules by their names."""
    groups = yaml.safe_load((DEPLOY / "prometheus/rules/alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}
