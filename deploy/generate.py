#!/usr/bin/env python3
"""Writes what is generated in deploy/: Grafana's dashboards, the chart's copies of them and of the rules, plain manifests.

    generate.py            writes
    generate.py --check    says what is not as it would be written, and fails
"""

import json
import pathlib
import sys

DEPLOY = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(DEPLOY / "grafana"))

import dashboard  # noqa: E402
import panels  # noqa: E402


def generated():
    """Pairs of a path and the text that belongs there."""
    for board in panels.DASHBOARDS:
        yield DEPLOY / "grafana" / f"{board.uid}.json", json.dumps(dashboard.dashboard(board), indent=1) + "\n"


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
