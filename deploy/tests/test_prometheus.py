"""The rules by promtool: they parse, each alert fires in its case alone; and the runbook has a page for each."""

import re
import subprocess

import tools
import yaml
from support import DEPLOY

RULES = DEPLOY / "prometheus" / "rules"


def promtool(*arguments):
    result = subprocess.run([tools.program("promtool"), *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_configuration_is_valid():
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_each_alert_fires_when_it_should():
    promtool("test", "rules", DEPLOY / "prometheus" / "tests" / "alerts.yml")


def test_groups_have_different_names():
    """The chart makes one PrometheusRule of both files, and an API server refuses equal names in it."""
    groups = [group for path in RULES.glob("*.yml") for group in yaml.safe_load(path.read_text())["groups"]]
    assert len({group["name"] for group in groups}) == len(groups)


def test_each_alert_has_a_case(alerts):
    cases = yaml.safe_load((DEPLOY / "prometheus" / "tests" / "alerts.yml").read_text())["tests"]
    assert set(alerts) <= {case["name"] for case in cases}


def test_rules_look_at_our_jobs_alone():
    """Other servers have metrics of these names too."""
    metric = re.compile(r"\b(?:(?:vllm:|quire_|process_|http_|scrape_)\w+|up)\b(?=[^(:\w])(\{[^}]*\})?")
    for path in RULES.glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                selectors = [match.group(1) or "" for match in metric.finditer(rule["expr"] + " ")]
                assert all('job=~"quire.*"' in selector for selector in selectors), rule["expr"]


def test_each_alert_has_its_page(alerts):
    pages = dict(re.findall(r"^## (Quire\w+)\n(.*?)(?=^## |\Z)", (DEPLOY / "RUNBOOK.md").read_text(), re.MULTILINE | re.DOTALL))
    assert list(pages) == list(alerts), "the runbook has the alerts, in their order"
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook"] == f"deploy/RUNBOOK.md#{name.lower()}"
        for part in ("**Means.**", "**Look at.**", "**Do.**"):
            assert part in pages[name], f"{name}: no {part}"
