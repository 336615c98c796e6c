#!/usr/bin/env python3
"""Writes what is generated in deploy/: Grafana's dashboards, the chart's copies of them and of the rules, plain manifests.

    generate.py            writes
    generate.py --check    says what is not as it would be written, and fails
"""

import json
import pathlib
import subprocess
import sys

DEPLOY = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(DEPLOY / "grafana"), str(DEPLOY / "tests")]

import dashboard  # noqa: E402
import panels  # noqa: E402
import tools  # noqa: E402

CHART = DEPLOY / "helm" / "quire"
# Plain manifests: their names, and the values they are rendered with.
MANIFESTS = {"cpu": [], "gpu": ["gpu.count=1"]}
# What only Helm needs to know.
HELM_LINES = ("app.kubernetes.io/managed-by:", "helm.sh/chart:", "# Source:")


def generated():
    """Pairs of a path and the text that belongs there."""
    for board in panels.DASHBOARDS:
        text = json.dumps(dashboard.dashboard(board), indent=1) + "\n"
        yield DEPLOY / "grafana" / f"{board.uid}.json", text
        # A chart reads no files outside of its folder.
        yield CHART / "files" / "dashboards" / f"{board.uid}.json", text
    for rules in sorted((DEPLOY / "prometheus" / "rules").glob("*.yml")):
        yield CHART / "files" / "rules" / rules.name, rules.read_text()
    for name, values in MANIFESTS.items():
        yield DEPLOY / "kubernetes" / f"{name}.yaml", manifests(values)


def manifests(values):
    """The chart rendered for the namespace quire, without what is Helm's."""
    settings = [part for value in values for part in ("--set", value)]
    lines = helm("template", "quire", CHART, "--namespace", "quire", *settings).splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().startswith(HELM_LINES)]
    return "# Rendered from deploy/helm/quire by deploy/generate.py: change it there.\n" + "".join(kept)


def helm(*arguments):
    """What Helm prints; its errors end the program."""
    program = tools.SITE / "bin" / "helm"
    if not program.exists():
        sys.exit("deploy/tests/tools.py gets Helm: run it first")
    result = subprocess.run([program, *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(result.stderr)
    return result.stdout


def differing():
    """The paths whose text is not what is generated."""
    return [path for path, text in generated() if not path.exists() or path.read_text() != text]


def main():
    if sys.argv[1:] == ["--check"]:
        if stale := differing():
            sys.exit("\n".join(f"{path.relative_to(DEPLOY)} is not as generated: run deploy/generate.py" for path in stale))
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        for path, text in generated():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


if __name__ == "__main__":
    main()
