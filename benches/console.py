#!/usr/bin/env python3
"""What an open console costs the server: throughput without it, with it in a browser, and with its questions alone. `make bench-console`."""

import argparse
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "clients"))

import browser as chromium
from conftest import BINARY, KEY, Server

# Of `t` with so many degrees of freedom, at 97.5%.
STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
# The page asks once in so many seconds.
INTERVAL = 1.0
# Answers younger than this are given twice, and would cost nothing.
APART = 0.25
MODES = ["closed", "browser", "questions"]
WORDS = {
    "closed": "no console",
    "browser": "console open in Chromium on the same processors",
    "questions": "the page's questions alone, one a second",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--polls", type=int, default=60)
    args = parser.parse_args()
    if missing := chromium.missing():
        sys.exit(missing)
    server, browser = Server(), chromium.Browser()
    try:
        rates = {mode: [] for mode in MODES}
        load(server, args.users, 2)
        for number in range(args.rounds):
            # Each mode is first, second and third in turn, so that what drifts meets all of them.
            for mode in MODES[number % 3 :] + MODES[: number % 3]:
                with_console = {"closed": nobody, "browser": watching(browser), "questions": asking}[mode]
                rates[mode].append(with_console(server, lambda: load(server, args.users, args.seconds)))
                print(f"round {number + 1}, {WORDS[mode]}: {rates[mode][-1]:.1f} tokens/s", file=sys.stderr)
        cost = cost_of_a_question(server, args.polls)
        print(report(args, rates, cost, questions_of_a_page(browser, server), load_time(browser, server)))
    finally:
        browser.quit()
        server.kill()


def load(server, users, seconds):
    """Tokens a second of a closed loop."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [BINARY.parent / "quire-bench", "--base-url", server.url, "--api-key", KEY, "--allow-late", "--json", file.name]
        command += ["--concurrency", str(users), "--duration", str(seconds), "--prompt-tokens", "64", "--max-tokens", "64"]
        subprocess.run(command, check=True, capture_output=True)
        level = json.loads(pathlib.Path(file.name).read_text())["levels"][0]
    assert level["failures"] == 0, level["first_failure"]
    return level["output_tokens_per_second"]


def nobody(_, run):
    return run()


def watching(browser):
    def during(server, run):
        browser.page(server.url, key=KEY).is_ready()
        try:
            return run()
        finally:
            browser.close_tabs()

    return during


def asking(server, run):
    stop = threading.Event()

    def ask():
        while not stop.wait(INTERVAL):
            question(server)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        return run()
    finally:
        stop.set()
        asker.join()


def question(server):
    return len(server.get("/console/state/default"))


def processor_seconds(server):
    """Of all threads of the server: nanoseconds on a processor are the first number of schedstat."""
    tasks = pathlib.Path(f"/proc/{server.process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def cost_of_a_question(server, num):
    """Microseconds of the server's processor time and bytes of an answer, with nothing else to do; what it needs anyhow is taken off."""
    time.sleep(2)
    length = question(server)
    spent = []
    for asks in (False, True):
        before = processor_seconds(server)
        for _ in range(num):
            if asks:
                question(server)
            time.sleep(APART)
        spent.append(processor_seconds(server) - before)
    return (spent[1] - spent[0]) / num * 1e6, spent[0] / (num * APART), length


def load_time(browser, server, num=9):
    """Median milliseconds from asking for the page until all of it is there, in tabs of their own."""
    script = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
    times = []
    for _ in range(num):
        page = browser.page(server.url, key=KEY)
        page.is_ready()
        times.append(page.run(script))
        browser.close_tabs()
    return statistics.median(times)


def asked(server):
    """Questions of the page so far."""
    lines = [line for line in server.get("/metrics").splitlines() if line.startswith("http_requests_total") and "/console/state" in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def questions_of_a_page(browser, server, seconds=8):
    """A second, of a page that is seen and of one behind another tab."""
    browser.page(server.url, key=KEY).is_ready()
    rates = []
    for hides in (False, True):
        if hides:
            browser.driver.switch_to.new_window("tab")
            time.sleep(INTERVAL)
        before = asked(server)
        time.sleep(seconds)
        rates.append((asked(server) - before) / seconds)
    browser.close_tabs()
    return rates


def interval(ratios):
    """The geometric mean and its 95% interval, over rounds."""
    logs = [math.log(ratio) for ratio in ratios]
    half = STUDENT[len(logs) - 1] * statistics.stdev(logs) / math.sqrt(len(logs))
    return [math.exp(statistics.mean(logs) + shift) for shift in (0, -half, half)]


def report(args, rates, cost, seen, loaded):
    processors = len(os.sched_getaffinity(0))
    microseconds, idle, length = cost
    share = microseconds / 1e6 / INTERVAL / processors
    lines = [
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, `console.py --rounds {args.rounds} --seconds {args.seconds:g} --users {args.users}`, {processors} processors",
        "",
        f"{args.users} users in a closed loop, {args.seconds:g} s a turn, {args.rounds} rounds of all three in changing order.",
        "",
        "| console | tokens/s, median | of none | 95% interval |",
        "|:--------|-----------------:|--------:|:-------------|",
        f"| {WORDS['closed']} | {statistics.median(rates['closed']):.1f} | 1 | |",
    ]
    for mode in MODES[1:]:
        mean, low, high = interval([with_it / without for with_it, without in zip(rates[mode], rates["closed"])])
        lines.append(f"| {WORDS[mode]} | {statistics.median(rates[mode]):.1f} | {mean:.4f} | {low:.4f} to {high:.4f} |")
    lines += [
        "",
        "| what the page costs the server | |",
        "|:-------------------------------|--:|",
        f"| processor time of an answer to the page | {microseconds:.0f} µs |",
        f"| its bytes | {length} |",
        f"| share of {processors} processors, one page that is seen | {100 * share:.3f}% |",
        f"| questions a second of a page that is seen | {seen[0]:.2f} |",
        f"| of a page behind another tab | {seen[1]:.2f} |",
        f"| processor time a second of a server with nothing to do | {1e3 * idle:.2f} ms |",
        f"| until the page has loaded, median | {loaded:.0f} ms |",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
