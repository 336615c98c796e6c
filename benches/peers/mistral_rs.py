#!/usr/bin/env python3
"""Serves a GGUF file with mistral.rs, a peer for `peers --mistral-rs`: its wheel has an engine, but no server.

    mistral_rs.py MODEL.gguf --port 8000

The wheel comes from PyPI by name into benches/.peers/mistral.rs (ignored by git). One request runs at a time: a step
with more than one quantized prompt fails in this version.
"""

import argparse
import http.server
import json
import pathlib
import sys
import threading

import servers
from programs import run

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "benches" / ".peers" / "mistral.rs"
PACKAGE = "mistralrs==0.9.5"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--eos", type=int, default=2, help="the token that must not end an answer")
    args = parser.parse_args()
    set_up()
    Handler.engine = Engine(args.model, args.eos)
    http.server.ThreadingHTTPServer(("127.0.0.1", args.port), Handler).serve_forever()


def set_up():
    if not (FOLDER / "mistralrs").exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        run([*install, "--root-user-action=ignore", "--target", FOLDER, PACKAGE])


def contestant(model):
    """It takes as many threads as there are cores."""
    command = [sys.executable, pathlib.Path(__file__).resolve(), model, "--port", "{port}"]
    return servers.Contestant(f"mistral.rs {servers.format_of(model)}", command)


class Engine:
    """The model in this process; its interface allows one caller at a time."""

    def __init__(self, model, eos):
        sys.path.insert(0, str(FOLDER))
        import mistralrs

        self.requests = mistralrs.ChatCompletionRequest
        self.eos, self.lock = eos, threading.Lock()
        which = mistralrs.Which.GGUF(str(model.parent), model.name)
        self.runner = mistralrs.Runner(which=which, max_seqs=1, token_source="none")

    def chunks(self, body):
        """The answer's parts as JSON: greedy, and as long as `max_tokens` says."""
        request = self.requests(
            messages=body["messages"],
            model="default",
            max_tokens=body["max_tokens"],
            temperature=0.0,
            logit_bias={self.eos: -100.0},
            stream=True,
        )
        with self.lock:
            for chunk in self.runner.send_chat_completion_request(request):
                choices = [{"delta": {"content": c.delta.content}} for c in chunk.choices]
                usage = chunk.usage and {
                    "prompt_tokens": chunk.usage.prompt_tokens,
                    "completion_tokens": chunk.usage.completion_tokens,
                }
                yield {"choices": choices, "usage": usage}


class Handler(http.server.BaseHTTPRequestHandler):
    """`/health`, and streamed chat completions: what the client of the benches asks for."""

    engine = None

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for chunk in self.engine.chunks(body):
                self.send(json.dumps(chunk))
        except (RuntimeError, ValueError) as error:
            self.send(json.dumps({"error": {"message": str(error)}}))
        self.send("[DONE]")

    def send(self, data):
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def log_message(self, *_):
        """Not a word for each request."""


if __name__ == "__main__":
    main()
