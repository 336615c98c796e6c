#!/usr/bin/env python3
"""Compares Quire with its peers on this machine, in turn (A B A B), and prints ratios.

    peers.py [MODEL.gguf] [--users 1,4,16,32,64] [--rounds 2] [--formats Q4_0,BF16] [--vllm FOLDER]

Online: each server is started alone, loaded by the same client, and ended; every number of users and every round anew.
Offline: `offline` against llama-bench and llama-batched-bench. llama.cpp is built on first use (see llama_cpp.py); it
runs the model's own file and faster formats made from it. Everything listens on 127.0.0.1. Standard library only.
"""

import argparse
import datetime
import json
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import llama_cpp

ROOT = pathlib.Path(__file__).resolve().parent.parent
DEFAULT_MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
# Prompt, answer and the template's tokens fit into a slot.
TOKENS_PER_USER = 512
START_TIMEOUT = 300
IDLE_SECONDS = 3
# A load average above this before the start means that something else runs.
BUSY = 0.7


def main():
    args = parse_args()
    llama_cpp.build(os.cpu_count())
    files = {"own file": args.model}
    for name in args.formats:
        files[name] = llama_cpp.requantized(args.model, name)
    report = {
        "date": datetime.date.today().isoformat(),
        "model": args.model.name,
        "threads": args.threads,
        "llama.cpp": llama_cpp.version(),
        "load_average": os.getloadavg()[0],
        "offline": [],
        "online": [],
    }
    text = [f"# {report['model']}, {report['date']}", "", f"llama.cpp: {report['llama.cpp']}"]
    if report["load_average"] > BUSY:
        # Servers whose threads wait for each other suffer most from a third program: ratios lie.
        text.append(f"NOT VALID: the machine was busy, load average {report['load_average']:.1f}")
        note(text[-1])
    text.append("")
    if "offline" in args.parts:
        report["offline"], report["limits"] = offline(args, files)
        text += [limits_line(report["limits"]), "", *offline_tables(report["offline"]), ""]
    if "online" in args.parts:
        report["online"] = online(args, files)
        text += online_tables(report["online"])
    print("\n".join(text))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    failures = sum(run["failures"] for run in report["online"])
    sys.exit(f"{failures} requests failed" if failures else 0)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    binaries = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    parser.add_argument("model", nargs="?", type=pathlib.Path, default=DEFAULT_MODEL)
    parser.add_argument("--users", type=numbers, default=[1, 4, 16, 32, 64])
    parser.add_argument("--batch", type=numbers, default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, help="of each run [default: three a user]")
    parser.add_argument("--formats", type=words, default=llama_cpp.FORMATS, help="llama.cpp's")
    parser.add_argument("--parts", type=words, default=["offline", "online"])
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--prompt-words", type=int, help="passed on to the client")
    parser.add_argument("--vllm", type=pathlib.Path, help="the same model as a Hugging Face folder")
    parser.add_argument("--binaries", type=pathlib.Path, default=binaries)
    parser.add_argument("--json", type=pathlib.Path, help="also write everything here")
    args = parser.parse_args()
    args.model = args.model.resolve()
    for name in ["offline", "client", "quire"]:
        if not (args.binaries / name).exists():
            parser.error(f"{args.binaries / name} is missing: cargo build --release --workspace")
    return args


def numbers(text):
    return [int(number) for number in text.split(",")]


def words(text):
    return [word for word in text.split(",") if word]


def physical_cores():
    """One a core: siblings share a line of the kernel's list."""
    allowed = os.sched_getaffinity(0)
    folder = pathlib.Path("/sys/devices/system/cpu")
    lists = [folder / f"cpu{cpu}/topology/thread_siblings_list" for cpu in allowed]
    return len({path.read_text() for path in lists if path.exists()}) or len(allowed)


# Online


def contestants(args, files, users):
    """Name → command and environment of a server for this many users."""
    quire = [args.binaries / "quire", "serve", args.model, "--threads", str(args.threads)]
    servers = {"Quire": ([*quire, "--port", "{port}"], {})}
    for name, path in files.items():
        command = [llama_cpp.tool("llama-server"), "--model", path, "--parallel", str(users)]
        command += ["--cont-batching", "--ctx-size", str(users * TOKENS_PER_USER)]
        command += ["--threads", str(args.threads), "--no-webui", "--port", "{port}"]
        servers[f"llama.cpp {name}"] = (command, {})
    if args.vllm:
        command = ["vllm", "serve", args.vllm, "--served-model-name", "default", "--port", "{port}"]
        command += ["--dtype", "bfloat16", "--max-num-seqs", str(max(users, 8))]
        command += ["--max-model-len", "1024"]
        servers["vLLM"] = (command, {"VLLM_CPU_KVCACHE_SPACE": "4", "HF_HUB_OFFLINE": "1"})
    return servers


def online(args, files):
    runs = []
    for users in args.users:
        for round_number in range(args.rounds):
            for name, (command, environment) in contestants(args, files, users).items():
                note(f"{users} users, round {round_number + 1}, {name} ...")
                run = serve_and_load(args, command, environment, users)
                runs.append({"server": name, "users": users, "round": round_number + 1, **run})
    return runs


def serve_and_load(args, command, environment, users):
    port = free_port()
    command = [str(part).replace("{port}", str(port)) for part in command]
    command += ["--host", "127.0.0.1"]
    with tempfile.TemporaryFile("w+") as log:
        start = time.monotonic()
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            wait_until_ready(server, port, log)
            ready = time.monotonic() - start
            level = load(args, server.pid, port, users)
            idle = idle_share(server.pid)
        finally:
            end(server)
    return {"ready_seconds": ready, "idle_share": idle, **level}


def wait_until_ready(server, port, log):
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.005)
    log.seek(0)
    sys.exit(f"{log.read()[-3000:]}\nthis server did not start: {' '.join(server.args)}")


def load(args, pid, port, users):
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [args.binaries / "client", "--base-url", f"http://127.0.0.1:{port}"]
        command += ["--pid", pid, "--concurrency", users, "--json", report.name]
        if args.requests:
            command += ["--requests", args.requests]
        if args.prompt_words:
            command += ["--prompt-words", args.prompt_words]
        run(command)
        return json.loads(report.read())["levels"][0]


def idle_share(pid):
    """CPU time that the server takes with nothing to do, as a share of a core."""
    time.sleep(1)
    before = cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    return (cpu_seconds(pid) - before) / IDLE_SECONDS


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def end(server):
    """Ends the server; what it started is in its process group."""
    for kind in [signal.SIGTERM, signal.SIGKILL]:
        try:
            os.killpg(server.pid, kind)
            server.wait(timeout=20)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            continue
        return


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def online_tables(runs):
    """Per number of users: each server's medians, and Quire against the best of the others."""
    columns = ["users", "server", "out tok/s", "TTFT mean", "TTFT p99", "ITL mean", "ITL p99"]
    columns += ["E2E mean", "peak MiB", "idle", "ready s", "failed"]
    rows, ratios = [], []
    for users in unique(run["users"] for run in runs):
        servers = {}
        for name in unique(run["server"] for run in runs):
            servers[name] = medians([r for r in runs if (r["users"], r["server"]) == (users, name)])
        for name, m in servers.items():
            times = [m["ttft"], m["ttft99"], m["itl"], m["itl99"], m["e2e"], m["memory"]]
            row = [users, name, f"{m['rate']:.1f}", *(f"{value:.0f}" for value in times)]
            rows.append([*row, f"{m['idle']:.1%}", f"{m['ready']:.2f}", m["failures"]])
        ours = servers.pop("Quire")
        if servers:
            ratios.append([users, *compare(ours, servers)])
    heads = ["users", "out tok/s", "of", "TTFT p99", "of", "peak memory", "of", "ready", "of"]
    return [
        "Online, medians of the rounds; times in ms:",
        "",
        *markdown(columns, rows, num_text=2),
        "",
        "Quire divided by the best peer (throughput: more is better, the others: less):",
        "",
        *markdown(heads, ratios),
    ]


def medians(runs):
    def median(value):
        return statistics.median(value(run) for run in runs)

    return {
        "rate": median(lambda run: run["output_tokens_per_second"]),
        "ttft": median(lambda run: run["ttft"]["mean"]),
        "ttft99": median(lambda run: run["ttft"]["p99"]),
        "itl": median(lambda run: run["itl"]["mean"]),
        "itl99": median(lambda run: run["itl"]["p99"]),
        "e2e": median(lambda run: run["e2e"]["mean"]),
        "memory": median(lambda run: (run["peak_memory_bytes"] or 0) / 2**20),
        "idle": median(lambda run: run["idle_share"]),
        "ready": median(lambda run: run["ready_seconds"]),
        "failures": sum(run["failures"] for run in runs),
    }


def compare(ours, peers):
    """Ratio and name of the best peer, figure by figure; who failed a request does not count."""
    whole = {name: peer for name, peer in peers.items() if not peer["failures"]} or peers
    cells = []
    for figure, best in [("rate", max), ("ttft99", min), ("memory", min), ("ready", min)]:
        name = best(whole, key=lambda name: whole[name][figure])
        other = whole[name][figure]
        cells += [f"{ours[figure] / other:.2f}x" if other else "-", name]
    return cells


# Offline


def offline(args, files):
    runs, limits = [], {}
    for round_number in range(args.rounds):
        note(f"offline, round {round_number + 1}, Quire ...")
        report = quire_offline(args)
        # The better of all rounds: whatever disturbs a measurement makes it lower.
        for name, value in report["limits"].items():
            known = limits.get(name)
            limits[name] = max(known, value) if isinstance(known, float) else value
        for figure in report["figures"]:
            rate = figure["tokens_per_second"]
            phase, batch = figure["phase"], figure["batch"]
            shares = {key: figure[key] for key in ["memory_share", "arithmetic_share"]}
            runs.append(
                {"engine": "Quire", "phase": phase, "batch": batch, "rate": rate, **shares}
            )
        for name, path in files.items():
            note(f"offline, round {round_number + 1}, llama.cpp {name} ...")
            for phase, batch, rate in llama_offline(args, path):
                engine = f"llama.cpp {name}"
                runs.append({"engine": engine, "phase": phase, "batch": batch, "rate": rate})
    return runs, limits


def quire_offline(args):
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [args.binaries / "offline", args.model, "--threads", str(args.threads)]
        command += ["--batch", ",".join(map(str, args.batch)), "--rounds", "1"]
        run([*command, "--json", report.name])
        return json.loads(report.read())


def llama_offline(args, path):
    """Phase, batch and tokens a second, as `offline` has them."""
    threads = str(args.threads)
    command = [llama_cpp.tool("llama-bench"), "-m", path, "-p", "512", "-n", "0", "-r", "3"]
    (prefill,) = json.loads(run([*command, "-t", threads, "-o", "json"]))
    yield "prefill", 1, prefill["avg_ts"]
    command = [llama_cpp.tool("llama-batched-bench"), "-m", path, "-npp", "128", "-ntg", "128"]
    command += ["-npl", ",".join(map(str, args.batch)), "-c", str(max(args.batch) * 256 + 256)]
    output = run([*command, "-t", threads, "--output-format", "jsonl"])
    for line in output.splitlines():
        if line.startswith("{"):
            result = json.loads(line)
            yield "decode", result["pl"], result["speed_tg"]


def offline_tables(runs):
    engines = unique(run["engine"] for run in runs)
    rows = []
    for phase, batch in unique((run["phase"], run["batch"]) for run in runs):
        here = [run for run in runs if (run["phase"], run["batch"]) == (phase, batch)]
        rates = {
            name: statistics.median(run["rate"] for run in here if run["engine"] == name)
            for name in engines
            if any(run["engine"] == name for run in here)
        }
        ours = rates["Quire"]
        best = max((rate for name, rate in rates.items() if name != "Quire"), default=0)
        cells = [f"{rates[name]:.1f}" if name in rates else "-" for name in engines]
        shares = [run for run in here if run["engine"] == "Quire"]
        for key in ["memory_share", "arithmetic_share"]:
            cells.append(f"{statistics.median(run[key] for run in shares):.0%}")
        rows.append([phase, batch, *cells, f"{ours / best:.2f}x" if best else "-"])
    columns = ["phase", "batch", *engines, "of bandwidth", "of arithmetic", "Quire / best peer"]
    return ["Offline, tok/s, medians of the rounds:", "", *markdown(columns, rows)]


def limits_line(limits):
    gop_s = {name: limits[f"{name}_gop_s"] for name in ["float32", "bfloat16", "int8"]}
    peaks = ", ".join(f"{name} {value:.0f} Gop/s" for name, value in gop_s.items() if value)
    machine = f"{limits['cpu']}, {limits['threads']} threads"
    return f"{machine}: reads {limits['read_gb_s']:.1f} GB/s, {peaks}"


# Both


def unique(values):
    return list(dict.fromkeys(values))


def markdown(columns, rows, num_text=1):
    """A table whose first columns are text and whose others are right-aligned."""
    lines = [columns, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]

    def line(cells):
        cells = [
            cell.ljust(width) if column < num_text else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths))
        ]
        return f"| {' | '.join(cells)} |"

    rules = [
        f":{'-' * (width - 1)}" if column < num_text else f"{'-' * (width - 1)}:"
        for column, width in enumerate(widths)
    ]
    return [line(lines[0]), line(rules), *map(line, lines[1:])]


def run(command):
    """The output of a command that must succeed."""
    environment = {**os.environ, "RUST_BACKTRACE": "0"}
    command = list(map(str, command))
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode != 0:
        sys.exit(f"{result.stderr[-3000:]}\nthis failed: {' '.join(command)}")
    return result.stdout


def note(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
