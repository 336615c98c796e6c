"""Quire under frameworks that need other versions of packages than tests/clients: its server, with events of its cache."""

import importlib.util
import json
import pathlib

import pytest

CLIENTS = pathlib.Path(__file__).resolve().parents[1] / "clients" / "conftest.py"
spec = importlib.util.spec_from_file_location("clients_conftest", CLIENTS)
clients = importlib.util.module_from_spec(spec)
spec.loader.exec_module(clients)
KEY, free_port, wait_for = clients.KEY, clients.free_port, clients.wait_for


@pytest.fixture(scope="session")
def server():
    config = {"enable_kv_cache_events": True, "endpoint": f"tcp://127.0.0.1:{free_port()}"}
    # No answer without an end of its own goes on for long.
    with clients.running("--kv-events-config", json.dumps(config), "--max-model-len", "1024") as server:
        yield server


@pytest.fixture
def client(server):
    return server.client()
