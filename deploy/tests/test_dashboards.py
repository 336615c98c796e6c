"""The committed JSON is what the table makes, and it hangs together."""

import json

import generate
from support import DEPLOY

BOARDS = [json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana").glob("*.json"))]


def test_generated_files_are_as_generated():
    assert generate.differing() == []


def test_panels_fit():
    for board in BOARDS:
        taken, numbers = set(), set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
            assert not cells & taken, panel["title"]
            assert place["x"] + place["w"] <= 24
            assert panel["id"] not in numbers
            taken |= cells
            numbers.add(panel["id"])


def test_each_panel_says_what_it_shows():
    panels = [panel for board in BOARDS for panel in board["panels"] if panel["type"] != "row"]
    assert len(panels) > 30
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert 0 < len(panel["targets"]) <= 8
