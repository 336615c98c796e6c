"""Quire under frameworks that need other versions of packages than tests/clients, with its server."""

import importlib.util
import pathlib

import pytest

CLIENTS = pathlib.Path(__file__).resolve().parents[1] / "clients" / "conftest.py"
spec = importlib.util.spec_from_file_location("clients_conftest", CLIENTS)
clients = importlib.util.module_from_spec(spec)
spec.loader.exec_module(clients)
KEY = clients.KEY


@pytest.fixture(scope="session")
def server():
    server = clients.Server()
    yield server
    try:
        assert server.stop() == 0, server.output()
    finally:
        server.kill()


@pytest.fixture
def client(server):
    return server.client()
