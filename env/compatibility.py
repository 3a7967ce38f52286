# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which pins can not go together: pure functions from pins to sentences, one for each contradiction, none where all is well.

What a wheel's own metadata says is read from an installed distribution of the pinned version (`required`, `pythons`); what no metadata
says stands here, with its source. That each package of a lock has a wheel for the lock's Python needs no rule: env/lock.py resolves with
--no-build.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

Pins = Mapping[str, str]
"""Canonical name of a distribution -> its pinned version."""

# What compiles CUDA without a vendor's image. Their requirements on each other carry no version, so that unpinned they come as the newest.
TOOLCHAIN = ("nvidia-cuda-nvcc", "nvidia-nvvm", "nvidia-cuda-crt", "nvidia-cuda-runtime", "nvidia-cuda-cccl")
# A newer one carries PTX that the driver of an older CUDA can not compile.
SAME_LINE = (*TOOLCHAIN, "nvidia-nvjpeg")
# The same release under two names: builds for the CPU and for CUDA, a library and its Python bindings or module.
SAME_RELEASE = (
    ("onnxruntime", "onnxruntime-gpu"),
    ("tensorrt-lean-cu13-libs", "tensorrt-lean-cu13-bindings"),
    ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings"),
    ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13"),
)
# Oldest driver that an image of a CUDA line may name. docs.nvidia.com/cuda/cuda-toolkit-release-notes, "CUDA Driver": the one that came with the
# line. Minor version compatibility would let an older one of its major run it, but not compile PTX.
OLDEST_DRIVER = {(12, 8): 570, (13, 0): 580}
# Which package of a CUDA tells its version, where the line has no cuda-toolkit.
CUDA_OF = ("cuda-toolkit", "nvidia-cuda-runtime-cu12")
LINUX = {"platform_system": "Linux", "sys_platform": "linux", "platform_machine": "x86_64"}


def pins_of(versions: Mapping[str, Any]) -> dict[str, str]:
    """Every entry of a parsed versions.yaml, at any depth, that has a version of its own."""
    found: dict[str, str] = {}
    for name, entry in versions.items():
        if isinstance(entry, Mapping):
            if isinstance(entry.get("version"), str):
                found[canonicalize_name(name)] = entry["version"]
            found |= pins_of(entry)
    return found


def lines_of(versions: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Section of a parsed versions.yaml -> the pins of an environment: `packages` with all other sections, and each `packages_*` alone.

    A line of its own is looked at alone: what it shares with the main one is looked at there.
    """
    main = {name: entry for name, entry in versions.items() if not name.startswith("packages_")}
    others = {name: pins_of(entry) for name, entry in versions.items() if name.startswith("packages_")}
    return {"packages": pins_of(main), **others}


def contradictions(pins: Pins) -> list[str]:
    """What can be said without any metadata, about pins of one environment."""
    return [*torch_and_torchvision(pins), *cuda_of_names(pins), *toolchain(pins), *same_release(pins)]


def torch_and_torchvision(pins: Pins) -> list[str]:
    """Torch 2.x goes with torchvision 0.(x + 15); from torch 2.14 on, torchvision 0.29 or newer (ultralytics/utils/checks.py:678)."""
    if not {"torch", "torchvision"} <= set(pins):
        return []
    (major, minor), vision = _line(pins["torch"]), _line(pins["torchvision"])
    expected = (0, min(minor + 15, 29))
    fits = vision == expected or (expected == (0, 29) and vision > expected)
    if major != 2 or fits:
        return (
            [] if major == 2 else [f"torch is pinned at {pins['torch']}: only the torchvision of torch 2 is known here"]
        )
    return [f"{_pin('torch', pins)} goes with torchvision 0.{expected[1]}, and {_pin('torchvision', pins)} is pinned"]


def required(package: str, requirements: Iterable[str], pins: Pins, extras: Iterable[str] = ()) -> list[str]:
    """Pins that contradict what the pinned `package` asks for (its Requires-Dist, on Linux x86_64, with `extras`)."""
    asked = [Requirement(text) for text in requirements]
    environments = [{**LINUX, "extra": extra} for extra in ("", *extras)]
    asked = [one for one in asked if one.marker is None or any(map(one.marker.evaluate, environments))]
    names = {canonicalize_name(one.name) for one in asked}
    found = [
        f"{_pin(package, pins)} requires {one.name}{one.specifier}, and {_pin(name, pins)} is pinned"
        for one, name in ((one, canonicalize_name(one.name)) for one in asked)
        if name in pins and not one.specifier.contains(pins[name], prereleases=True)
    ]
    for name in pins:
        stem = re.sub(r"-cu\d+$", "", name)
        wanted = sorted(other for other in names if other != name and re.sub(r"-cu\d+$", "", other) == stem)
        if name not in names and wanted:
            found.append(f"{_pin(package, pins)} requires {wanted[0]}, and {_pin(name, pins)} is pinned")
    return found


def pythons(
    package: str, requires_python: str, classifiers: Iterable[str], wanted: Iterable[str], pins: Pins
) -> list[str]:
    """Pythons ("3.11") that the pinned `package` can not be installed on, by its Requires-Python and the Pythons it names."""
    named = {
        one.rpartition(" :: ")[2]
        for one in classifiers
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", one)
    }
    accepted = SpecifierSet(requires_python)
    found = []
    for python in wanted:
        if not accepted.contains(f"{python}.99"):  # 3.11 is any 3.11.x, and ">=3.11.4" leaves room for it
            found.append(
                f"{_pin(package, pins)} requires Python {requires_python}, and locks are made for Python {python}"
            )
        elif named and python not in named:
            known = ", ".join(sorted(named, key=_line))
            found.append(f"{_pin(package, pins)} names Python {known}, and locks are made for Python {python}")
    return found


def cuda_of_names(pins: Pins) -> list[str]:
    """Packages that carry a CUDA version in their name (-cu13, -cuda130) and not that of the pinned CUDA."""
    cuda = next((name for name in CUDA_OF if name in pins), None)
    if cuda is None:
        return []
    major, minor = _line(pins[cuda])
    found = []
    for name in pins:
        told = re.search(r"-cu(?:da)?(\d\d)(\d?)(?:-|$)", name)
        # A name with a minor version is for that one and newer ones of its major.
        if told and (int(told[1]) != major or int(told[2] or 0) > minor):
            found.append(f"{_pin(name, pins)} is not for CUDA {major}.{minor}, and {_pin(cuda, pins)} is pinned")
    return found


def toolchain(pins: Pins) -> list[str]:
    """The compiler's wheels are all pinned or none, and on the minor line of the pinned cuda-toolkit, as is what runs with it."""
    here = [name for name in TOOLCHAIN if name in pins]
    found = [
        f"{_pin(here[0], pins)} is pinned without {name}, which would come as the newest"
        for name in TOOLCHAIN
        if here and name not in pins
    ]
    if "cuda-toolkit" not in pins:
        return found
    line = _line(pins["cuda-toolkit"])
    return found + [
        f"{_pin('cuda-toolkit', pins)} is CUDA {line[0]}.{line[1]}, and {_pin(name, pins)} is pinned"
        for name in SAME_LINE
        if name in pins and _line(pins[name]) != line
    ]


def same_release(pins: Pins) -> list[str]:
    """Packages that are released together are pinned at one version."""
    both = [(one, other) for one, other in SAME_RELEASE if one in pins and other in pins]
    return [
        f"{_pin(one, pins)} goes with {other} {pins[one]}, and {_pin(other, pins)} is pinned"
        for one, other in both
        if pins[one] != pins[other]
    ]


def driver(cuda: str, oldest: str) -> list[str]:
    """Whether images of the CUDA line `cuda` ("13.0") may say that driver `oldest` ("580" or "580.65.06") is enough for them."""
    needed = OLDEST_DRIVER.get(_line(cuda))
    if needed is None:
        return [f"CUDA {cuda} is pinned: env/compatibility.py does not know which driver it needs"]
    if int(oldest.partition(".")[0]) < needed:
        return [f"CUDA {cuda} needs driver {needed} or newer, and driver {oldest} is given as enough"]
    return []


def _line(version: str) -> tuple[int, int]:
    """Major and minor; 0 for a minor that is not told."""
    major, _, rest = version.partition(".")
    return int(major), int(rest.partition(".")[0] or 0)


def _pin(name: str, pins: Pins) -> str:
    return f"{name} {pins[name]}"
