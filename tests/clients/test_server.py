"""Quire as a process: many streams at once, clients that vanish, idleness, and the way down."""

import concurrent.futures
import os
import signal
import subprocess
import sys
import time

import pytest

from conftest import KEY, wait_for

PROMPTS = [f"Here is a list of {count} animals:" for count in range(2, 34)]
ENDLESS = {"max_tokens": 4000, "temperature": 0, "extra_body": {"ignore_eos": True}}


def stream_text(client, prompt, num_tokens):
    stream = client.completions.create(
        model="default",
        prompt=prompt,
        max_tokens=num_tokens,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "length"
    return "".join(chunk.choices[0].text for chunk in chunks)


def is_idle(server):
    names = ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"]
    return all(server.metric(name) == 0 for name in names)


def test_32_streams_at_once_finish_and_read_as_if_alone(server):
    client = server.client()
    with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
        together = list(pool.map(lambda prompt: stream_text(client, prompt, 24), PROMPTS))
    for index in (0, 13, 31):
        assert together[index] == stream_text(client, PROMPTS[index], 24)
    wait_for(lambda: is_idle(server), 10, "no request runs")


CLIENT_TO_KILL = f"""
import openai, sys
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key={KEY!r}, max_retries=0)
for chunk in client.completions.create(model="default", prompt="On and on", stream=True, **{ENDLESS!r}):
    print(chunk.choices[0].text, flush=True)
"""


def test_a_killed_client_frees_its_blocks(server):
    wait_for(lambda: is_idle(server), 30, "no request runs")
    command = [sys.executable, "-c", CLIENT_TO_KILL, server.url]
    victim = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert victim.stdout.readline()
        wait_for(lambda: server.metric("vllm:num_requests_running") == 1, 10, "it runs")
        wait_for(lambda: server.metric("vllm:kv_cache_usage_perc") > 0, 10, "it holds blocks")
    finally:
        victim.kill()
        victim.wait()
    wait_for(lambda: is_idle(server), 10, "its blocks are free")
    assert stream_text(server.client(), "After it", 4)


def test_an_idle_server_costs_nothing(server):
    wait_for(lambda: is_idle(server), 30, "no request runs")
    # Workers may spin for a moment after the last step.
    time.sleep(1)
    ticks, begin = cpu_ticks(server.process.pid), time.monotonic()
    time.sleep(3)
    seconds = (cpu_ticks(server.process.pid) - ticks) / os.sysconf("SC_CLK_TCK")
    share = seconds / (time.monotonic() - begin)
    assert share < 0.01, f"{share:.1%} of a core"


def test_sigterm_lets_answers_finish_and_exits_0(start):
    server = start()
    stream = open_stream(server, max_tokens=64)
    pieces = [next(stream).choices[0].text]
    server.signal(signal.SIGTERM)
    chunks = list(stream)
    pieces += [chunk.choices[0].text for chunk in chunks]
    assert chunks[-1].choices[0].finish_reason == "length" and "".join(pieces).strip()
    assert server.process.wait(30) == 0, server.output()


def test_a_second_signal_ends_at_once(start):
    server = start()
    stream = open_stream(server)
    next(stream)
    server.signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        server.process.wait(1)
    begin = time.monotonic()
    server.signal(signal.SIGINT)
    server.process.wait(5)
    assert time.monotonic() - begin < 3


def test_a_bad_start_is_one_sentence():
    from conftest import BINARY

    cases = [
        (["no-such-model.gguf"], "no-such-model.gguf"),
        ([__file__], os.path.basename(__file__)),
        (["--max-model-len", "0"], "--max-model-len"),
    ]
    for flags, part in cases:
        done = subprocess.run([BINARY, "serve", *flags], capture_output=True, text=True, timeout=30)
        assert done.returncode != 0 and part in done.stderr, done.stderr
        assert "panicked" not in done.stderr and "backtrace" not in done.stderr


def open_stream(server, **options):
    options = ENDLESS | options
    return server.client().completions.create(
        model="default", prompt="On and on", stream=True, **options
    )


def cpu_ticks(pid):
    """User and system time of the process, in clock ticks."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
