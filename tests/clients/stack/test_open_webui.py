"""Open WebUI over Quire, driven in a browser: a chat over OpenAI's API, another model over Ollama's, a question about a file."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

import pytest

pytest.importorskip("selenium")

import browser as chromium
from browser import Browser, Keys, Page
from conftest import KEY, MODEL, ROOT, free_port, running, wait_for

SITE = ROOT / ".venv" / "open-webui"
PICTURES = ROOT / ".venv" / "open-webui-pictures"
SECONDS = 180
pytestmark = [
    pytest.mark.skipif(not SITE.exists(), reason="NOT RUN: Open WebUI is not there: make clients-stack"),
    pytest.mark.skipif(bool(chromium.missing()), reason=f"NOT RUN: {chromium.missing()}"),
]


def settings(server, folder):
    """Open WebUI as a new user sets it up, but for what would ask a small model more than it is asked here."""
    of_openai = {"OPENAI_API_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": KEY}
    of_ollama = {"OLLAMA_BASE_URL": server.url, "OLLAMA_API_CONFIGS": json.dumps({"0": {"key": KEY}})}
    of_files = {
        "RAG_EMBEDDING_ENGINE": "openai",
        "RAG_EMBEDDING_MODEL": MODEL.stem,
        "RAG_OPENAI_API_BASE_URL": f"{server.url}/v1",
        "RAG_OPENAI_API_KEY": KEY,
        "VECTOR_DB": "chroma",
    }
    quiet = ["TITLE_GENERATION", "TAGS_GENERATION", "FOLLOW_UP_GENERATION", "RETRIEVAL_QUERY_GENERATION"]
    params = {"function_calling": "legacy", "max_tokens": 32, "temperature": 0}
    return {
        **of_openai,
        **of_ollama,
        **of_files,
        **{f"ENABLE_{name}": "false" for name in quiet},
        "DEFAULT_MODEL_PARAMS": json.dumps(params),
        "DATA_DIR": str(folder),
        "HOME": str(folder),
        "OFFLINE_MODE": "true",
        "WEBUI_AUTH": "false",
        "WEBUI_SECRET_KEY": "of-the-tests",
        "PYTHONPATH": str(SITE),
        "PATH": os.environ["PATH"],
    }


@pytest.fixture(scope="module")
def web():
    """The address of an Open WebUI over a server with two models; the second one is the first under another name."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        twin = folder / "twin.gguf"
        twin.symlink_to(MODEL)
        with running(str(twin)) as server, open(folder / "log", "w+") as log:
            port = free_port()
            start = "import sys; from open_webui import app; sys.argv[0] = 'open-webui'; app()"
            command = [sys.executable, "-c", start, "serve", "--host", "127.0.0.1", "--port", str(port)]
            process = subprocess.Popen(command, env=settings(server, folder), stdout=log, stderr=log)
            try:
                wait_for(lambda: is_up(process, port, log), SECONDS, "Open WebUI is up")
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
                process.wait(30)
                PICTURES.mkdir(exist_ok=True)
                shutil.copy(log.name, PICTURES / "log")


def is_up(process, port, log):
    assert process.poll() is None, pathlib.Path(log.name).read_text()[-4000:]
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
        return True
    except OSError:
        return False


class Chat(Page):
    """A new chat."""

    def __init__(self, driver, url):
        super().__init__(driver)
        driver.get(url)
        self.resize(chromium.WIDE)
        self.wait(lambda: self.all("#chat-input"), "a place to write", SECONDS)
        # What is new in this release, the first time; it comes late.
        time.sleep(2)
        self.run("[...document.querySelectorAll('button')].filter((own) => own.textContent.includes('Go!')).forEach((own) => own.click())")

    def choose(self, model):
        self.one("#model-selector-model-button").click()
        self.wait(lambda: self.all(f"[data-value='{model}']"), f"{model} can be chosen")
        self.one(f"[data-value='{model}']").click()
        self.wait(lambda: model in self.text("#model-selector-model-button"), f"{model} is chosen")

    def ask(self, text):
        """The answer, once it stays as it is."""
        before = self.answers()
        self.one("#chat-input").click()
        self.press(text, Keys.ENTER)
        seen = []

        def is_done():
            seen.append(self.answers())
            time.sleep(1)
            return seen[-1] != before and seen[-1][-1].strip() and seen[-4:] == seen[-1:] * 4

        self.wait(is_done, "the answer has ended", SECONDS)
        return seen[-1][-1]

    def answers(self):
        return self.run("return [...document.querySelectorAll('.chat-assistant')].map((own) => own.textContent)")

    def keep_picture(self, name):
        PICTURES.mkdir(exist_ok=True)
        (PICTURES / f"{name}.png").write_bytes(self.picture())


def test_chats_models_and_files(web, tmp_path):
    browser = Browser()
    try:
        chat = Chat(browser.driver, web)
        # The models of Ollama's API have tags.
        chat.choose(MODEL.stem)
        first = chat.ask("Name three colours of the rainbow.")
        chat.keep_picture("chat")
        chat.choose("twin:latest")
        second = chat.ask("And now three animals.")
        chat.keep_picture("other-model")
        assert len(first.strip()) > 10 and len(second.strip()) > 10
        assert MODEL.stem in chat.text("#chat-pane") and "twin:latest" in chat.text("#chat-pane")
        file = tmp_path / "harbour.txt"
        file.write_text("The lighthouse of Port Ellery is painted green. Its keeper is called Mabel Quist.\n")
        chat = Chat(browser.driver, web)
        chat.choose("twin:latest")
        chat.one("input[type=file]").send_keys(str(file))
        chat.wait(lambda: "harbour.txt" in chat.text("body"), "the file is there")
        time.sleep(5)
        chat.ask("Who keeps the lighthouse of Port Ellery?")
        chat.keep_picture("file")
        assert "harbour.txt" in chat.text("body") and "1 Source" in chat.text("body")
    finally:
        browser.quit()
