"""What a head learns from: answers that the model itself gives, asked of a Quire server."""

import concurrent.futures
import json
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

TOPICS = (
    "volcanoes, coffee, railways, chess, whales, gardens, steam engines, honey, deserts, cathedrals, photography, cheese, "
    "the moon, forests, wool, harbours, poetry, spiders, coins, weather, wheat, opera, glaciers, bicycles, tea, islands, "
    "mathematics, dragons, markets, snow, radio, horses, libraries, marble, lakes, tunnels, perfume, telescopes, wolves, "
    "lemons, ships, dancing, pottery, the heart, mushrooms, rain, castles, silk, mountains, soap"
).split(", ")

QUESTIONS = [
    "Explain {} to a child of ten.",
    "Write three paragraphs about the history of {}.",
    "What should a beginner know about {}?",
    "Tell a short story in which {} matter.",
    "List eight facts about {}, each with a sentence of explanation.",
    "Why do people care about {}?",
    "Write a letter to a friend about {}.",
    "Write a Python class that stores data on {}, with methods to add, find and print. Answer with code only.",
    "Write a Python function that counts words in texts on {}, with a docstring and an example.",
    "Give step by step instructions for a school project about {}.",
    "Compare {} in the city and in the country.",
    "Summarise what science says about {} in five sentences.",
]

START_TIMEOUT = 120


class Server:
    """A Quire server, ended with the block that it is used in."""

    def __init__(self, binary, model, users):
        self.port = free_port()
        flags = ["--device", "cpu", "--host", "127.0.0.1", "--port", str(self.port), "--max-num-seqs", str(users)]
        command = [str(binary), "serve", str(model), *flags, "--max-model-len", "2048"]
        self.process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)

    def __enter__(self):
        end = time.monotonic() + START_TIMEOUT
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/health")
                self.name = self.get("/v1/models")["data"][0]["id"]
                return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.3)
        self.__exit__()
        raise SystemExit("the server did not start")

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(timeout=30)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as reply:
            return json.loads(reply.read() or "{}")

    def post(self, path, body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=json.dumps({"model": self.name, **body}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as reply:
            return json.load(reply)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def questions(seed, count):
    """As many different ones, in random order."""
    every = [question.format(topic) for question in QUESTIONS for topic in TOPICS]
    random.Random(seed).shuffle(every)
    return every[:count]


def generate(server, count, max_tokens, users):
    """Texts as token ids with the length of their prompts; half of the answers are greedy, half sampled."""

    def ask(numbered):
        index, question = numbered
        body = {"messages": [{"role": "user", "content": question}], "add_generation_prompt": True}
        prompt = server.post("/tokenize", body)["tokens"]
        temperature = 0.0 if index % 2 == 0 else 0.8
        body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": temperature, "seed": index}
        choice = server.post("/v1/completions", {**body, "return_token_ids": True})["choices"][0]
        return prompt + choice["token_ids"], len(prompt)

    with concurrent.futures.ThreadPoolExecutor(users) as pool:
        return list(pool.map(ask, enumerate(questions(0, count))))
