"""Runs other programs, and says what they said when they fail."""

import os
import subprocess


class Failed(Exception):
    """A program that did not do what it was run for; the text ends with its command."""


def run(command, environment=None):
    """The output of a command that must succeed."""
    command = [*map(str, command)]
    environment = {**os.environ, "RUST_BACKTRACE": "0", **(environment or {})}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        said = f"{result.stdout[-1500:]}\n{result.stderr[-1500:]}".strip()
        raise Failed(f"{said}\nthis failed: {' '.join(command)}")
    return result.stdout
