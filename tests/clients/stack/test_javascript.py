"""The clients of Ollama, Anthropic and OpenAI for JavaScript, where node is."""

import pathlib
import shutil
import subprocess

import pytest

from conftest import KEY

FOLDER = pathlib.Path(__file__).parent
FILES = ["package.json", "clients.mjs"]


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not here")
def test_clients_for_javascript(server, tmp_path):
    for name in FILES:
        shutil.copy(FOLDER / name, tmp_path)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=tmp_path, check=True, timeout=300)
    command = ["node", "clients.mjs", server.url, KEY]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stdout == "fine\n", result.stderr
