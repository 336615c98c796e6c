#!/usr/bin/env python3
"""Compares Quire with its peers on this machine, in turn (A B A B), and holds the ratios against bars.

    python3 benches/peers [MODEL] [--quick] [--users 1,4,16,32,64] [--formats Q4_0,BF16] [--output PREFIX]
    python3 benches/peers MODEL --types Q8_0,Q6_K,Q4_K_M,IQ4_XS

MODEL is a GGUF file or a name of real_models.py. Online: each server is started alone, loaded by the same client, and
ended; every number of users and every round anew. Offline: `offline` against llama-bench and llama-batched-bench.
Every figure is printed and kept when it is measured; `--resume` goes on where a run was interrupted.
"""

import argparse
import datetime
import os
import pathlib
import shlex
import signal
import sys

import bars
import llama_cpp
import machine
import real_models
import servers
import vllm
from comparison import Session, compare_offline, compare_online, compare_types
from offline import Shape
from record import Record

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEFAULT_MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
# Whatever llama-quantize makes and Quire loads.
TYPES = (
    "BF16,F16,Q8_0,Q6_K,Q5_K_M,Q5_1,Q5_0,Q4_K_M,Q4_1,Q4_0,IQ4_XS,IQ4_NL,MXFP4,Q3_K_M,Q2_K".split(
        ","
    )
)


def main():
    args = parse_args()
    # A run that is ended from outside ends its servers too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    llama_cpp.build(os.cpu_count())
    wanted = bars.of_types(args.types) if args.types else bars.of_model(args.model.stem)
    record = Record(header(args), wanted, args.output, args.resume)
    session = Session(args, record)
    interrupted = False
    try:
        if args.types:
            compare_types(session)
        else:
            compare(session)
    except KeyboardInterrupt:
        interrupted = True
    print()
    print(record.text())
    if interrupted:
        sys.exit("interrupted: the figures above are kept, --resume goes on")
    if session.failures:
        sys.exit("Quire failed:\n" + "\n".join(session.failures))


def compare(session):
    args = session.args
    files = {f"llama.cpp {args.own_format}": args.model}
    for name in args.formats:
        if name != args.own_format:
            files[f"llama.cpp {name}"] = llama_cpp.requantized(args.model, name)
    if "offline" in args.parts:
        compare_offline(session, files)
    if "online" in args.parts:
        compare_online(session, files)


def parse_args():
    parser = argparse.ArgumentParser(prog="peers", description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="a GGUF file or name")
    parser.add_argument("--quick", action="store_true", help="one round, best format only")
    parser.add_argument("--users", type=numbers, default=[1, 4, 16, 32, 64])
    parser.add_argument("--batch", type=numbers, default=[1, 32], help="of decode, offline")
    parser.add_argument(
        "--rounds", type=int, help="[default: 2; with 1, Quire runs before and after]"
    )
    parser.add_argument("--requests", type=int, help="of each run [default: three a user]")
    parser.add_argument("--formats", type=words, help="of llama.cpp beside the model's own")
    parser.add_argument(
        "--types", type=words, help="compare files of these types; 'all' is every one"
    )
    parser.add_argument("--parts", type=words, help="of offline, online")
    parser.add_argument("--threads", type=int, default=machine.physical_cores())
    parser.add_argument("--prompt-words", type=int, help="passed on to the client")
    parser.add_argument("--offline-tokens", type=int, help="steps that are timed of each batch")
    parser.add_argument("--attempts", type=int, default=2, help="at a figure that others disturb")
    parser.add_argument("--vllm", type=pathlib.Path, help="the same model as a Hugging Face folder")
    parser.add_argument("--mistral-rs", action="store_true", help="at one user: more fail in it")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another server; {port} in its command stands for the port",
    )
    parser.add_argument("--keep-files", action="store_true", help="that --types made")
    parser.add_argument("--binaries", type=pathlib.Path, default=default_binaries())
    parser.add_argument("--output", help="keep the report in PREFIX.md and PREFIX.json")
    parser.add_argument("--resume", action="store_true", help="go on with PREFIX.json")
    return complete(parser, parser.parse_args())


def complete(parser, args):
    """Fills in what depends on other flags, and checks what can be checked at once."""
    if str(args.model) in real_models.MODELS:
        args.model = real_models.fetch(str(args.model))
    args.model = pathlib.Path(args.model).resolve()
    if not args.model.exists():
        parser.error(
            f"{args.model} is not there: `make model`, or one of {', '.join(real_models.MODELS)}"
        )
    for name in ["offline", "quire-bench", "quire"]:
        if not (args.binaries / name).exists():
            parser.error(f"{args.binaries / name} is missing: cargo build --release --workspace")
    args.own_format = servers.format_of(args.model)
    # Bars of the small model are against any format of the same model, all others against the same file.
    any_format = bars.of_model(args.model.stem) is bars.SMALL_MODEL
    if args.formats is None:
        args.formats = llama_cpp.FORMATS if any_format else []
    if args.parts is None:
        args.parts = ["offline", "online"] if any_format else ["offline"]
    if args.types == ["all"]:
        args.types = TYPES
    args.rounds = args.rounds or (1 if args.quick else 2)
    # Of a large model, prompts take most of the time.
    prompt_tokens, output_tokens = (64 if args.types else 128), (32 if args.quick else 128)
    args.shape = Shape(
        args.batch,
        prompt_tokens,
        args.offline_tokens or output_tokens,
        repetitions=1 if args.quick else 3,
    )
    args.others = [other_peer(parser, text) for text in args.peer]
    if args.vllm and not (args.vllm.is_dir() and vllm.is_set_up()):
        parser.error("vLLM is not set up, or its folder is not there: see benches/README.md")
    return args


def other_peer(parser, text):
    name, separator, command = text.partition("=")
    if not separator or "{port}" not in command:
        parser.error(f"--peer wants NAME=COMMAND with {{port}} in it: {text}")
    return name, shlex.split(command)


def header(args):
    """The first lines of the report. Folders say nothing about the run."""
    flags = [flag if flag.startswith("-") else flag.rsplit("/", 1)[-1] for flag in sys.argv[1:]]
    return [
        f"# {args.model.name}, {datetime.datetime.now(datetime.timezone.utc).date().isoformat()}",
        "",
        f"`peers {' '.join(flags)}`; llama.cpp {llama_cpp.version()}",
        "",
    ]


def default_binaries():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def numbers(text):
    return [int(number) for number in text.split(",")]


def words(text):
    return [word for word in text.split(",") if word]


if __name__ == "__main__":
    main()
