# SPDX-License-Identifier: AGPL-3.0-or-later
"""`yolov12 verify`: does this image hold what was promised? Read from what is installed, compared with what the build wrote down.

In an image share/yolov12 of the environment has the promises (docker/stages/describe.py writes them). In a plain environment there are the
pins alone, and the rest is said to be unchecked. Nothing heavy is imported and no GPU is asked: GPU code is read from the libraries' files.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from yolov12 import pins
from yolov12.tools import inventory
from yolov12.tools.gpu_code import GpuCode, GpuCodeError, gpu_code, in_order

PROMISES = Path(sys.prefix) / "share/yolov12"
"""Where an image keeps image.json, sbom.cdx.json and licenses/."""

LIBRARIES = {
    "torch": ("torch", "torch/lib/libtorch_cuda.so"),
    "torchvision": ("torchvision", "torchvision/_C.so"),
    "flash-attn": ("flash-attn", "flash_attn/_hd32.so"),
    "kernels": ("yolov12-kernels", "yolov12_kernels/_kernels.so"),
    "dali": ("nvidia-dali-cuda130", "nvidia/dali/libdali_operators.so"),
    "tensorrt": ("tensorrt-rtx-cu13-libs", "tensorrt_rtx_libs/libtensorrt_rtx.so.1"),
    "onnxruntime-gpu": ("onnxruntime-gpu", "onnxruntime/capi/libonnxruntime_providers_cuda.so"),
    "tensorrt-lean": ("tensorrt-lean-cu13-libs", "tensorrt_lean_libs/libnvinfer_lean.so.11"),
}
"""Name in the report -> package and its library with GPU code, below site-packages; of several the one with most of it."""

CHOICES = {"dali": ("nvidia-dali-cuda130",), "tensorrt": ("tensorrt-cu13-libs", "tensorrt-rtx-cu13-libs")}
"""Build argument, in small letters -> the packages of which one is installed where it asks for any."""

BUILT = {"flash-attn": "attention is PyTorch's own", "yolov12-kernels": "batch norm is PyTorch's own"}
"""Package that the build makes -> what runs without it."""

IGNORED = {"pip", "yolov12", "yolov12-deploy", *BUILT}
"""Not from the lock: Debian's pip, ourselves, and what the build makes, which has a check of its own."""


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    ok: bool | None
    """None: there is nothing to compare with."""
    found: str
    expected: str = ""
    """Said only where `found` is not that."""

    def __str__(self) -> str:
        mark = {True: "ok", False: "FAIL", None: "--"}[self.ok]
        said = f"expected {self.expected}, found {self.found}" if self.ok is False else self.found
        return f"{mark:4}  {self.name:16}  {said}"


@dataclass(frozen=True)
class Here:
    """What is looked at. Tests make their own."""

    site: Path
    packages: dict[str, Distribution]
    promised: dict[str, Any] | None
    """image.json; None outside an image."""
    folder: Path = PROMISES
    read_gpu_code: Callable[[Path], GpuCode] = gpu_code

    @property
    def versions(self) -> dict[str, str]:
        """Canonical name -> version of each installed package."""
        return {name: found.version for name, found in self.packages.items()}


def look() -> Here:
    """This interpreter's environment."""
    file = PROMISES / "image.json"
    promised = json.loads(file.read_text()) if file.is_file() else None
    return Here(Path(inventory.site_packages()), inventory.installed(), promised)


def checks(here: Here) -> list[Check]:
    """Every comparison, quick ones first."""
    found = [check_python(here), check_versions(here)]
    found += check_gpu_code(here)
    if "torch" in here.packages:
        found += [check_built(here, package) for package in BUILT]
        found += check_choices(here)
    return found + ([check_bill(here), check_licences(here)] if here.promised else [])


def check_python(here: Here) -> Check:
    """The interpreter's version."""
    version = platform.python_version()
    if here.promised is None:
        return Check("python", None, version)
    promised = here.promised["python"]
    return Check("python", version.rpartition(".")[0] == promised, version, f"{promised}.x")


def check_versions(here: Here) -> Check:
    """Each package against the lock in an image, else against the pins."""
    versions = {name: version for name, version in here.versions.items() if name not in IGNORED}
    if here.promised is None:
        promised = {name: version for name, version in pins.PACKAGES.items() if name in versions}
        versions = {name: versions[name] for name in promised}
    else:
        promised = here.promised["packages"]
    as_promised = "as the lock has them" if here.promised else "as pinned"
    differing = sorted(name for name in promised.keys() | versions.keys() if promised.get(name) != versions.get(name))
    if not differing:
        named = ", ".join(f"{name} {versions[name]}" for name in pins.SHOWN if name in versions)
        return Check("versions", True, f"{len(versions)} packages {as_promised}; {named}")
    return Check(
        "versions",
        False,
        ", ".join(f"{name} {versions.get(name, 'not installed')}" for name in differing),
        ", ".join(f"{name} {promised.get(name, 'not installed')}" for name in differing),
    )


def libraries(here: Here) -> Iterator[tuple[str, str, str]]:
    """(name in the report, package, file below site-packages) of each installed library with GPU code."""
    whole = ((here.promised or {}).get("flash_attn") or {}).get("libraries", {})  # upstream's whole has another name
    for short, (package, library) in LIBRARIES.items():
        if package in here.packages:
            yield short, package, next(iter(whole), library) if package == "flash-attn" else library


def check_gpu_code(here: Here) -> Iterator[Check]:
    """The archs in each library: at least the promised ones; in ONNX Runtime's and in what the build made, exactly those that are known."""
    for short, package, library in libraries(here):
        name = f"code {short}"
        try:
            code = here.read_gpu_code(here.site / library)
        except GpuCodeError as error:
            yield Check(name, False, str(error), f"GPU code in {library}")
            continue
        if package in BUILT or package == "onnxruntime-gpu":
            wanted = _archs_of(here.versions[package]) if package in BUILT else set(pins.ONNXRUNTIME_GPU_CODE)
            yield Check(name, code.cubins == wanted, str(code), f"exactly {_archs(wanted)}")
        else:
            wanted = set((here.promised or {}).get("archs") or pins.ARCHS)
            yield Check(
                name, all(runs_on(arch, code.cubins) for arch in wanted), str(code), f"code for {_archs(wanted)}"
            )


def runs_on(arch: str, cubins: Iterable[str]) -> bool:
    """Code runs on its own arch and on later ones of the same major version; "90a" is beside the code for 90, not instead of it."""
    plain = [int(have) for have in cubins if have.isdigit()]
    return any(have // 10 == int(arch) // 10 and have <= int(arch) for have in plain)


def _archs(numbers: Iterable[str]) -> str:
    return " ".join(f"sm_{number}" for number in in_order(frozenset(numbers))) or "none"


def _archs_of(version: str) -> set[str]:
    """ "2.8.3+hd32.sm80.sm90" -> {"80", "90"}."""
    return {part.removeprefix("sm") for part in version.partition("+")[2].split(".") if part.startswith("sm")}


def check_built(here: Here, package: str) -> Check:
    """The installed package is the wheel that the build made."""
    name, version, without = _short(package), here.versions.get(package), BUILT[package]
    if here.promised is None:
        return Check(name, None, version or f"not installed; {without}")
    wheel = here.promised[package.replace("-", "_")]
    if wheel is None:
        return Check(name, version is None, version or f"not in this image; {without}", "not installed")
    libraries = {file: _sha256(here.site / file) for file in wheel["libraries"]}
    if (version, libraries) == (wheel["version"], wheel["libraries"]):
        return Check(name, True, f"{version}, wheel sha256 {wheel['sha256']}")
    return Check(name, False, f"{version or 'not installed'} {libraries}", f"{wheel['version']} {wheel['libraries']}")


def _short(package: str) -> str:
    return package.removeprefix("yolov12-")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no such file"


def check_choices(here: Here) -> Iterator[Check]:
    """What a build argument chose is there, and what it left out is not."""
    for name, packages in CHOICES.items():
        version = next((f"{package} {here.versions[package]}" for package in packages if package in here.versions), "")
        if here.promised is None:
            yield Check(name, None, version or "not installed")
            continue
        chosen = f"{name.upper()}={here.promised[name]}"
        is_asked = here.promised[name] not in ("0", "none")
        expected = f"one of {', '.join(packages)} ({chosen})" if is_asked else f"not installed ({chosen})"
        found = version or ("not installed" if is_asked else f"not in this image ({chosen})")
        yield Check(name, is_asked == bool(version), found, expected)


def check_bill(here: Here) -> Check:
    """The bill of materials lists exactly what is installed."""
    file = here.folder / "sbom.cdx.json"
    if not file.is_file():
        return Check("sbom", False, "no such file", str(file))
    listed = json.loads(file.read_text())["components"]
    python = {part["name"]: part["version"] for part in listed if part["purl"].startswith("pkg:pypi/")}
    difference = sorted(
        name for name in python.keys() | here.versions.keys() if python.get(name) != here.versions.get(name)
    )
    found = f"{file}: {len(python)} packages of Python, {len(listed) - len(python)} of Debian"
    if difference:
        return Check("sbom", False, f"{found}; it differs in {', '.join(difference)}", "what is installed")
    return Check("sbom", True, found)


def check_licences(here: Here) -> Check:
    """Each package has its licence text, or declares a licence in its metadata."""
    folder = here.folder / "licenses"
    with_text = {name for name, version in here.versions.items() if _has_texts(folder / f"{name}-{version}")}
    declaring = {name for name, found in here.packages.items() if _declares_licence(found)}
    found = (
        f"{len(with_text)} packages with their texts in {folder}, {len(declaring - with_text)} more that only name it"
    )
    empty = {name for name, distribution in here.packages.items() if _is_empty(distribution)}
    if missing := sorted(here.versions.keys() - with_text - declaring - empty):
        return Check("licences", False, f"none for {', '.join(missing)}", "a text or a name for each package")
    return Check("licences", True, f"{found}; Debian's in /usr/share/doc/*/copyright")


def _has_texts(folder: Path) -> bool:
    return folder.is_dir() and all(file.is_file() for file in folder.iterdir())


def _declares_licence(found: Distribution) -> bool:
    said = [found.metadata.get_all(field) for field in ("License-Expression", "License")]
    return any(said) or any(line.startswith("License ::") for line in found.metadata.get_all("Classifier") or [])


def _is_empty(found: Distribution) -> bool:
    """A package of requirements alone, such as cuda-toolkit: there is nothing in it to be licensed."""
    return all(file.parts[0].endswith(".dist-info") for file in found.files or [])


def check_size(here: Here, sizes: Counter[str]) -> Check:
    """All bytes of the image against its budget."""
    total_gb = sizes.total() / 1e9
    if here.promised is None:
        return Check("size", None, f"{total_gb:.2f} GB in {here.site}; only an image has a budget")
    budget_gb = here.promised["size_budget_gb"]
    return Check(
        "size", total_gb <= budget_gb, f"{total_gb:.2f} GB (budget {budget_gb:.2f} GB)", f"at most {budget_gb:.2f} GB"
    )


def origin(here: Here) -> list[str]:
    """Where this comes from: facts that nothing inside can confirm."""
    if here.promised is None:
        return [f"no image: no promises in {here.folder}, so only pins are compared"]
    promised = here.promised
    return [
        f"image   yolov12:{promised['variant']} {promised['version']}",
        f"base    {promised['base_image']}",
        f"inputs  {promised['inputs']} (sha256 of the Dockerfile, its scripts, locks, sources and arguments)",
    ]


def report(here: Here, found: list[Check], sizes: Counter[str]) -> Iterator[str]:
    """What a person reads."""
    yield from origin(here)
    yield ""
    yield from map(str, found)
    yield from (f"{'':22}{size / 1e6:6.0f} MB  {group}" for group, size in sizes.most_common())
    failed = [check.name for check in found if check.ok is False]
    yield ""
    yield f"FAILED: {', '.join(failed)}" if failed else "everything that could be compared agrees"


def main(options: dict[str, Any]) -> int:
    """Print the report, with `json` for programs; 0 if everything agrees, else 1."""
    here = look()
    site = str(here.site)
    sizes = (inventory.image_bytes if here.promised else inventory.environment_bytes)(here.packages, site)
    found = [*checks(here), check_size(here, sizes)]
    passed = all(check.ok is not False for check in found)
    if options.get("json"):
        document = {
            "ok": passed,
            "image": here.promised,
            "checks": [asdict(check) for check in found],
            "bytes": dict(sizes),
        }
        print(json.dumps(document, indent=1))
    else:
        print("\n".join(report(here, found, sizes)))
    return 0 if passed else 1
