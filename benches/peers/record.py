"""The report on disk: rewritten after each figure, so that an interrupted run keeps what it has."""

import json
import os
import pathlib

import bars
import offline
import tables

# What makes two rows the same measurement.
IDENTITY = ["part", "name", "file", "phase", "batch", "users", "scout", "round"]


class Record:
    """Rows of figures, kept in `output`.json and, as tables, in `output`.md; without `output` in memory alone."""

    def __init__(self, header, wanted, output=None, resume=False):
        self.header, self.wanted, self.output = header, wanted, output
        self.rows, self.limits = [], {}
        if resume and output and self.path(".json").exists():
            kept = json.loads(self.path(".json").read_text())
            self.rows, self.limits = kept["rows"], kept["limits"]

    def add(self, rows, limits=None):
        """Keeps rows, in place of the same ones of before that did not count."""
        new = {identity(row) for row in rows}
        self.rows = [row for row in self.rows if identity(row) not in new or bars.is_valid(row)]
        self.rows += rows
        self.limits = offline.better_limits(self.limits, limits) if limits else self.limits
        for row in rows:
            print(tables.one_line(row), flush=True)
        self.write()

    def has(self, **identity):
        """Whether such a row is there and counts."""
        return any(
            bars.is_valid(row) and all(row.get(key) == value for key, value in identity.items())
            for row in self.rows
        )

    def text(self):
        return tables.report(self.header, self.limits, self.rows, self.wanted)

    def write(self):
        if self.output:
            whole = {"header": self.header, "limits": self.limits, "rows": self.rows}
            replace(self.path(".json"), json.dumps(whole, indent=1) + "\n")
            replace(self.path(".md"), self.text())

    def path(self, ending):
        return pathlib.Path(f"{self.output}{ending}")


def identity(row):
    return tuple(row.get(key) for key in IDENTITY)


def replace(path, text):
    """At no time is there half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(text)
    os.replace(unfinished, path)
