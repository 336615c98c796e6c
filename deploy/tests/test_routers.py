"""Quire as a worker behind routers that others made, under load. Long: it gets 150 MB of them."""

import os
import subprocess
import sys

import pytest
import tools
from support import MODEL, ROOT, Load, Process, Quire, free_port, status_of, wait_for

PACKAGES = ["vllm-router==0.1.17", "smg==1.13.0"]
# Routers over gRPC read the tokenizer.
DIRECTORY = ROOT / "tests" / "data" / "conformance" / "hf" / "llama3"
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
def test_a_router_speaks_grpc_to_its_worker(packages, name):
    """vllm-router calls vllm.Inference with the token ids that it is sent, smg tokenizes for vllm.grpc.engine.VllmEngine."""
    # vllm-router looks for the tokenizer where the model's name leads.
    name_of_model = str(DIRECTORY)
    port, grpc_port = free_port(), free_port()
    worker = Quire("--threads", "1", "--grpc-port", str(grpc_port), "--served-model-name", name_of_model, model=DIRECTORY).wait_until_ready()
    flags = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port()), "--policy", "round_robin"]
    flags += ["--worker-urls", f"grpc://127.0.0.1:{grpc_port}"] + ["--model-path", str(DIRECTORY)] * (name == "smg")
    router = Process(sys.executable, *ROUTERS[name], *flags, environment=os.environ | {"PYTHONPATH": str(FOLDER)})
    prompt = "Ready?" if name == "smg" else [5, 6, 7]
    clients = [Load(port, 0, stream=stream, model=name_of_model) for stream in [True, False]]
    try:
        wait_for(lambda: clients[0].ask(prompt) is None, 60, f"{name} answers")
        for client in clients * 4:
            assert client.ask(prompt) is None, router.output()[-2000:]
        assert worker.served() >= 9
    finally:
        router.kill()
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
