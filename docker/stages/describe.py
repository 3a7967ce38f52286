# SPDX-License-Identifier: AGPL-3.0-or-later
"""describe.py LOCKS WHEELS KEY=VALUE...: what an image says of itself, in share/yolov12 of its environment.

image.json      what was promised: the lock's versions, GPU archs, size budget, hash of the inputs; `verify` compares it with what it finds
sbom.cdx.json   a bill of materials (CycloneDX 1.6) from what is installed, Python's packages and Debian's
least_driver    the oldest driver, which the entrypoint compares with the host's
older_drivers   "570=12.8" for each CUDA line that needs no newer driver than 570, which it then names
licenses/       for each Python package its licence texts, as links; Debian's are in /usr/share/doc/PACKAGE/copyright

Runs at the end of a build with the image's own Python and needs nothing but it. Nothing here depends on the time or the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, PathDistribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

LICENCE_FILE = re.compile(r"^(licen[cs]e|copying|notice|copyright|eula)", re.IGNORECASE)


def canonical(name: str) -> str:
    """A distribution's name as the index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(locks: Path, left_out: set[str]) -> dict[str, str]:
    """Name -> version in the parts of the lock that the image takes."""
    return {
        name: version
        for part in sorted(locks.glob("*.txt"))
        if part.stem not in left_out
        for name, version in named(part).items()
    }


def named(part: Path) -> dict[str, str]:
    """Name -> version in a file of requirements."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^ \\\n]+)", part.read_text(), re.MULTILINE))


def left_out(facts: dict[str, Any]) -> set[str]:
    """The optional parts of the lock (locks.py) that were not asked for."""
    asked = {"dali": facts.get("dali") == "1", "tensorrt-rtx": facts.get("tensorrt") == "rtx"}
    return {part for part, is_in in asked.items() if not is_in}


BUILT = ("flash_attn", "yolov12_kernels")
"""Packages whose wheels the build made."""


def built(package: str, wheels: Path) -> dict[str, Any] | None:
    """Which wheel of the package was installed: its file name, version, hash, archs and the hash of its library; None without one."""
    for wheel in wheels.rglob(f"{package}-*.whl"):
        version = wheel.name.split("-")[1]
        with zipfile.ZipFile(wheel) as archive:
            libraries = {
                name: hashlib.sha256(archive.read(name)).hexdigest()
                for name in sorted(archive.namelist())
                if name.endswith(".so")
            }
        return {
            "wheel": wheel.name,
            "version": version,
            "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
            "archs": re.findall(r"sm(\d+)", version.partition("+")[2]),
            "libraries": libraries,
        }
    return None


def purl(kind: str, name: str, version: str) -> str:
    """The package's URL, by which scanners know it: `purl("deb/debian", "g++", "1:2+b1")` is pkg:deb/debian/g%2B%2B@1:2%2Bb1."""
    return f"pkg:{kind}/{quote(name, safe='')}@{quote(version, safe=':')}"


def licence_files(distribution: Distribution) -> list[Path]:
    """The licence texts that a distribution carries in its metadata folder, else beside its code."""
    files = [Path(str(distribution.locate_file(file))) for file in distribution.files or []]
    named = [file for file in files if LICENCE_FILE.match(file.name) or "licenses" in file.parts[-3:-1]]
    metadata = [file for file in named if any(part.endswith(".dist-info") for part in file.parts)]
    return [file for file in metadata or named if file.is_file() and file.suffix not in (".py", ".pyc")]


def licence_entry(distribution: Distribution) -> list[dict[str, Any]]:
    """The licence that the metadata declares, as CycloneDX has it; empty when it declares none."""
    metadata = distribution.metadata
    if expression := metadata.get("License-Expression"):
        return [{"expression": expression}]
    classifiers = [
        line.split(" :: ")[-1] for line in metadata.get_all("Classifier", []) if line.startswith("License ::")
    ]
    line = (metadata.get("License") or "").strip().splitlines()[:1]
    return [{"license": {"name": name}} for name in classifiers or line if name]


def python_components(found: list[PathDistribution], hashes: dict[str, str]) -> list[dict[str, Any]]:
    """One component for each Python package; `hashes` has the sha256 of the wheels that the build made."""
    components = []
    for distribution in found:
        name, version = canonical(distribution.name), distribution.version
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": purl("pypi", name, version),
            "name": name,
            "version": version,
            "purl": purl("pypi", name, version),
        }
        if licences := licence_entry(distribution):
            component["licenses"] = licences
        if name in hashes:
            component["hashes"] = [{"alg": "SHA-256", "content": hashes[name]}]
        components.append(component)
    return components


def debian_components() -> list[dict[str, Any]]:
    """One component for each installed package of Debian."""
    done = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package}\t${Version}\t${Architecture}\n"],
        capture_output=True,
        text=True,
        check=True,
    )
    components = []
    for line in sorted(done.stdout.splitlines()):
        name, version, architecture = line.split("\t")
        url = f"{purl('deb/debian', name, version)}?arch={architecture}"
        components.append({"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url})
    return components


def bill_of_materials(facts: dict[str, Any], components: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole document."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, facts['inputs'])}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": f"yolov12:{facts['variant']}",
                "version": facts["version"],
                "licenses": [{"expression": "AGPL-3.0-or-later"}],
            },
            "properties": [
                {"name": "yolov12:base_image", "value": facts["base_image"]},
                {"name": "yolov12:inputs", "value": facts["inputs"]},
            ],
        },
        "components": components,
    }


def link_licences(folder: Path, found: list[PathDistribution]) -> list[str]:
    """Link every licence text into `folder`; the names of packages that carry none."""
    without = []
    for distribution in found:
        name = canonical(distribution.name)
        files = licence_files(distribution)
        if not files:
            without.append(name)
            continue
        place = folder / f"{name}-{distribution.version}"
        place.mkdir(parents=True)
        for number, file in enumerate(sorted(files)):
            link = place / file.name
            if link.is_symlink():  # two texts of the same name, in different folders
                link = place / f"{number}-{file.name}"
            link.symlink_to(os.path.relpath(file, place))
    return without


def main(locks: Path, wheels: Path, facts: dict[str, Any]) -> None:
    """Write the three."""
    folder = Path(sys.prefix) / "share/yolov12"
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(
        (item for item in distributions() if isinstance(item, PathDistribution)), key=lambda item: canonical(item.name)
    )
    facts["archs"] = facts.get("archs", "").split()
    facts["size_budget_gb"] = float(facts["size_budget_gb"])
    facts |= {package: built(package, wheels) for package in BUILT}
    vendor = folder / "vendor.txt"  # what tensorrt.sh installed, which no lock has
    facts["packages"] = locked(locks, left_out(facts)) | (named(vendor) if vendor.is_file() else {})
    facts["packages_without_licence_text"] = link_licences(folder / "licenses", found)
    for name in ("least_driver", "older_drivers"):
        if facts.get(name, "none") != "none":
            (folder / name).write_text(facts[name] + "\n")
    hashes = {canonical(package): facts[package]["sha256"] for package in BUILT if facts[package]}
    components = [*python_components(found, hashes), *debian_components()]
    for name, document in (("image.json", facts), ("sbom.cdx.json", bill_of_materials(facts, components))):
        (folder / name).write_text(json.dumps(document, indent=1, sort_keys=name == "image.json") + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), dict(argument.split("=", 1) for argument in sys.argv[3:]))
