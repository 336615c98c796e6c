"""Quire as a worker behind routers that others made, under load. Long: it gets 150 MB of them."""

import os
import subprocess
import sys

import pytest
import tools
from support import MODEL, Load, Process, Quire, free_port, status_of, wait_for

PACKAGES = ["vllm-router==0.1.17", "smg==1.13.0"]
FOLDER = tools.TOOLS / "routers"
ROUTERS = {
    "vllm-router": ["-c", "from vllm_router.launch_router import main; main()"],
    "smg": [FOLDER / "bin" / "smg", "launch"],
}


@pytest.fixture(scope="module")
def packages():
    stamp = FOLDER / "PACKAGES"
    if not stamp.exists() or stamp.read_text() != "\n".join(PACKAGES):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-warn-conflicts", "--root-user-action=ignore", "--upgrade"]
        subprocess.run([*command, "--target", FOLDER, *PACKAGES], check=True)
        stamp.write_text("\n".join(PACKAGES))


@pytest.fixture
def workers():
    workers = [Quire("--threads", "1") for _ in range(2)]
    yield [worker.wait_until_ready() for worker in workers]
    for worker in workers:
        worker.kill()


@pytest.mark.long
@pytest.mark.parametrize("name", ROUTERS)
def test_both_workers_answer_through_the_router(packages, workers, name):
    port = free_port()
    urls = [f"http://127.0.0.1:{worker.port}" for worker in workers]
    flags = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()), "--policy", "round_robin", "--worker-urls"]
    environment = os.environ | {"PYTHONPATH": str(FOLDER)}
    router = Process(sys.executable, *ROUTERS[name], *flags, *urls, environment=environment)
    model = MODEL.stem
    try:
        wait_for(lambda: status_of(f"http://127.0.0.1:{port}/health") == 200, 120, f"{name} is ready")
        # It asks its workers for their models before it takes requests for them.
        wait_for(lambda: Load(port, 0, max_tokens=1, model=model).ask("Ready?") is None, 60, f"{name} knows the model")
        with Load(port, 8, model=model) as load, Load(port, 2, stream=False, model=model) as whole:
            wait_for(lambda: load.num_answers >= 40, 120, "clients are answered")
        assert load.failures + whole.failures == [], router.output()[-2000:]
        for worker in workers:
            assert worker.served() > 10
    finally:
        router.kill()
