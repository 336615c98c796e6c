#!/usr/bin/env python3
"""Prints the bill of materials of the binary, as CycloneDX 1.6: every crate that is linked into it, from Cargo.lock.

The same lock file gives the same bytes. Standard library only.
"""

import json
import pathlib
import re
import subprocess
import tomllib
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = "quire-server"


def main():
    print(json.dumps(bill(), indent=1))


def bill():
    """The whole document, as a dictionary."""
    metadata = cargo_metadata()
    packages = {package["id"]: package for package in metadata["packages"]}
    edges = {node["id"]: linked(node) for node in metadata["resolve"]["nodes"]}
    (root,) = [identity for identity, package in packages.items() if package["name"] == PACKAGE]
    used = reachable(root, edges)
    hashes = checksums()
    reference = {identity: purl(packages[identity]) for identity in used}
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component(packages[root], hashes) | {"type": "application", "name": "quire"}},
        "components": sorted((component(packages[one], hashes) for one in used if one != root), key=lambda part: part["bom-ref"]),
        "dependencies": sorted(
            ({"ref": reference[one], "dependsOn": sorted(reference[other] for other in edges[one])} for one in used),
            key=lambda part: part["ref"],
        ),
    }
    # A name for exactly this content.
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    return {"serialNumber": f"urn:uuid:{serial}"} | body


def cargo_metadata():
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)


def linked(node):
    """What a crate needs to run: not what only builds or tests it."""
    return sorted(other["pkg"] for other in node["deps"] if any(kind["kind"] is None for kind in other["dep_kinds"]))


def reachable(root, edges):
    found, open_ends = {root}, [root]
    while open_ends:
        for other in edges[open_ends.pop()]:
            if other not in found:
                found.add(other)
                open_ends.append(other)
    return found


def checksums():
    packages = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    return {(package["name"], package["version"]): package["checksum"] for package in packages if "checksum" in package}


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, hashes):
    part = {"type": "library", "bom-ref": purl(package), "name": package["name"], "version": package["version"], "purl": purl(package)}
    if package.get("license"):
        # Old manifests write a slash for OR.
        part["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}]
    if digest := hashes.get((package["name"], package["version"])):
        part["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return part


if __name__ == "__main__":
    main()
