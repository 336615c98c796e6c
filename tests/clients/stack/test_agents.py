"""Agents for code over Quire, each through a turn with a tool: opencode, and Continue's CLI.

The default model is too small to choose a tool. So a stage between both asks for the call (`tool_choice`) in an agent's first
request and leaves the model one argument to write. All the rest is as the agent has it: the call comes from the model, the agent
runs it, sends the result, and is answered."""

import http.client
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import threading

import pytest

from conftest import KEY, MODEL

FOLDER = pathlib.Path(__file__).parent
SECRET = "The password of the harbour is heron-4711."
SECONDS = 240
pytestmark = pytest.mark.skipif(not shutil.which("npm"), reason="NOT RUN: npm is not here")


class Stage:
    """Passes everything on to a server, and keeps the bodies of chats. In the first with the tool that one is demanded."""

    def __init__(self, port, tool, arguments):
        self.chats = []
        stage = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.pass_on(None)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.pass_on(stage.changed(json.loads(body)) if self.path.endswith("/chat/completions") else body)

            def pass_on(self, body):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
                headers = {name: self.headers[name] for name in ("Authorization", "Content-Type") if self.headers[name]}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.getheader("Content-Type"))
                self.end_headers()
                while part := answer.read1(4096):
                    self.wfile.write(part)
                    self.wfile.flush()

        self.tool, self.arguments = tool, arguments
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def changed(self, body):
        is_first = not any(message["role"] == "tool" for message in body["messages"])
        tools = {tool["function"]["name"]: tool["function"] for tool in body.get("tools", [])}
        self.chats.append(json.loads(json.dumps(body)))
        for limit in ("max_tokens", "max_completion_tokens"):
            body.pop(limit, None)
        body |= {"max_tokens": 200 if is_first and tools else 24, "temperature": 0}
        if is_first and self.tool in tools:
            properties = {name: {"type": "string", "enum": [value]} for name, value in self.arguments.items()}
            tools[self.tool]["parameters"] = {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
            body["tool_choice"] = {"type": "function", "function": {"name": self.tool}}
        return json.dumps(body).encode()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def results(self):
        """What tools answered, of all chats."""
        messages = [message for chat in self.chats for message in chat["messages"]]
        return [json.dumps(message["content"]) for message in messages if message["role"] == "tool"]


@pytest.fixture(scope="module")
def agents(tmp_path_factory):
    """A folder with the packages of both."""
    folder = tmp_path_factory.mktemp("agents")
    shutil.copy(FOLDER / "agents.json", folder / "package.json")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
    subprocess.run(command, cwd=folder, check=True, timeout=600)
    return folder


@pytest.fixture
def work(tmp_path):
    """A folder to work in, with a file to read; it is the home of the agent, too."""
    (tmp_path / "notes.txt").write_text(SECRET + "\n")
    return tmp_path


def run(command, work, **environment):
    """The agent's output, whose turn has ended."""
    alone = {"HOME": str(work), "PATH": os.environ["PATH"], "XDG_CONFIG_HOME": str(work / ".config"), **environment}
    result = subprocess.run(command, cwd=work, env=alone, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def check(stage):
    """The call was answered with the file, and the model after that."""
    assert any(SECRET in result for result in stage.results()), stage.chats[-1]["messages"][-3:]


def test_opencode_reads_a_file(server, agents, work):
    stage = Stage(server.port, "read", {"filePath": str(work / "notes.txt")})
    models = {MODEL.stem: {"name": "Small", "tool_call": True, "limit": {"context": 8192, "output": 256}}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Quire",
        "options": {"baseURL": stage.url, "apiKey": KEY},
        "models": models,
    }
    name = f"quire/{MODEL.stem}"
    agent = {"mode": "primary", "prompt": "You answer from files.", "model": name, "tools": {"*": False, "read": True}}
    config = {
        "provider": {"quire": provider},
        "model": name,
        "small_model": name,
        "agent": {"reader": agent},
        "autoupdate": False,
        "share": "disabled",
    }
    (work / "opencode.json").write_text(json.dumps(config))
    binary = agents / "node_modules" / ".bin" / "opencode"
    offline = {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_LSP_DOWNLOAD": "1"}
    run([binary, "run", "--agent", "reader", "What is the password in notes.txt?"], work, **offline)
    check(stage)
    stage.close()


def test_continue_reads_a_file(server, agents, work):
    stage = Stage(server.port, "Read", {"filepath": str(work / "notes.txt")})
    config = {
        "name": "Quire",
        "version": "1.0.0",
        "schema": "v1",
        "models": [
            {
                "name": "Small",
                "provider": "openai",
                "model": MODEL.stem,
                "apiBase": stage.url,
                "apiKey": KEY,
                "roles": ["chat"],
                "capabilities": ["tool_use"],
                "defaultCompletionOptions": {"contextLength": 8192, "maxTokens": 256},
            }
        ],
    }
    (work / "config.yaml").write_text(json.dumps(config))
    binary = agents / "node_modules" / ".bin" / "cn"
    others = ["Write", "Edit", "MultiEdit", "List", "Search", "Bash", "Fetch", "Checklist", "Diff", "Exit", "UploadArtifact"]
    excluded = [flag for tool in others for flag in ("--exclude", tool)]
    command = [binary, "-p", "--config", "config.yaml", "--allow", "Read", *excluded, "What is the password in notes.txt?"]
    run(command, work, CONTINUE_TELEMETRY_ENABLED="0", DO_NOT_TRACK="1")
    check(stage)
    stage.close()
