#!/usr/bin/env python3
"""Takes the picture of the console that the README shows: a server at work, and a chat with it. `make console-picture`."""

import sys
import threading
import time

import browser as chromium
from browser import Browser
from conftest import KEY, Server

PICTURE = chromium.ROOT / "docs" / "console.png"
MAX_BYTES = 150_000
SIZE = (1280, 680)
NUM_USERS = 12
SECONDS = 30


def main():
    if missing := chromium.missing():
        sys.exit(missing)
    server, browser = Server("--kv-cache-memory", "96MiB"), Browser()
    stop = threading.Event()
    users = [threading.Thread(target=use, args=(server, user, stop)) for user in range(NUM_USERS)]
    try:
        page = browser.page(server.url, size=SIZE, key=KEY)
        page.is_ready()
        for user in users:
            user.start()
        time.sleep(SECONDS)
        page.run("document.getElementById('temperature').value = 0; document.getElementById('max_tokens').value = 90")
        page.run("document.getElementById('parameters').dispatchEvent(new Event('input', {bubbles: true}))")
        page.ask("Write a story about a lighthouse.")
        page.answered(120)
        time.sleep(2)
        picture = page.picture()
    finally:
        stop.set()
        browser.quit()
        server.kill()
    if len(picture) > MAX_BYTES:
        sys.exit(f"the picture has {len(picture)} bytes, {MAX_BYTES} at most")
    PICTURE.write_bytes(picture)
    print(f"{PICTURE.relative_to(chromium.ROOT)}: {len(picture)} bytes")


def use(server, user, stop):
    """Asks on and on: prompts that begin alike, answers of many lengths."""
    system = {"role": "system", "content": "You answer the questions of travellers by sea, in plain words and at some length. " * 4}
    turn = 0
    while not stop.is_set():
        turn += 1
        question = {"role": "user", "content": f"Tell me of harbour {user * 31 + turn}. " + "What is there to see? " * (user * turn % 23)}
        body = {"model": "default", "messages": [system, question], "max_tokens": 20 + (user * 53 + turn * 89) % 260, "ignore_eos": True}
        try:
            server.post("/v1/chat/completions", body)
        except OSError:
            return


if __name__ == "__main__":
    main()
