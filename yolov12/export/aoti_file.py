# SPDX-License-Identifier: AGPL-3.0-or-later
"""An AOTInductor package as it lies on disk: what it says of itself, and whether it may and can run here.

A `.pt2` is a zip whose `extra/` is free for the one who makes it; there lies the JSON text that ultralytics' other formats carry, with `BUILT_BY`. It
is read without torch and without loading the native code beside it. torch itself checks little: code for another GPU fails at the first kernel with
a number, and code for another CPU ends the process.
"""

from __future__ import annotations

import json
import platform
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolov12 import settings
from yolov12.errors import UserError
from yolov12.export import cache
from yolov12.log import program

SUFFIX = ".pt2"
METADATA = "metadata.json"
"""Name in the archive's `extra/`."""
BUILT_BY = "built_by"
"""Key of the metadata: an `Origin`."""

CPU_FEATURE = re.compile(r"avx\w*|amx\w*|ssse3|sse4\w*|fma|f16c|bmi[12]|abm|popcnt|movbe|asimd\w*|sve\w*|bf16|i8mm")
"""Of what the kernel says of the CPU, the instructions that g++ may emit under the -march=native of torch (cpp_builder.py:934 of 2.11)."""


@dataclass(frozen=True)
class Origin:
    """What a package was compiled by and for; or, the same of this process."""

    torch: str
    """Version."""
    arch: str
    """As "sm_90"; "cpu" for the CPU alone."""
    gpu: str
    """The GPU's name, for people; "" on the CPU."""
    machine: str
    """As "x86_64" or "aarch64"."""
    features: tuple[str, ...]
    """Of the CPU, sorted: instructions that the code may use. A package for a GPU has code for the CPU too, which launches the kernels."""

    def __str__(self) -> str:
        return f"torch {self.torch} on {' '.join(filter(None, (self.arch, self.gpu)))} ({self.machine})"


def cpu_features(cpuinfo: str) -> tuple[str, ...]:
    """The instructions that code for this CPU may use.

    Args:
        cpuinfo: the text of /proc/cpuinfo, which calls them flags (x86) or Features (arm); "" where there is none.
    """
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return tuple(sorted(word for word in (line[1].split() if line else ()) if CPU_FEATURE.fullmatch(word)))


def origin_here(device: Any) -> Origin:
    """What this process would compile a package for.

    Args:
        device: a torch.device.
    """
    import torch

    from yolov12.export import machine

    features = cpu_features(machine.cpuinfo())
    if device.type == "cuda":
        arch = "sm_" + "".join(map(str, torch.cuda.get_device_capability(device)))
        return Origin(torch.__version__, arch, torch.cuda.get_device_name(device), platform.machine(), features)
    return Origin(torch.__version__, "cpu", "", platform.machine(), features)


def metadata_of(path: Path) -> dict[str, Any]:
    """What ultralytics' AutoBackend wants to know, and `BUILT_BY`.

    Raises:
        UserError: the file was cut, or it is a package of someone else that does not say what it is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith(f"/extra/{METADATA}")), None)
            text = archive.read(name) if name else b""
    except (zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is no whole package: {error}; {again(path)}") from error
    try:
        found: dict[str, Any] = json.loads(text)
        origin_of(found)
        found["names"] = {int(index): name for index, name in found["names"].items()}  # JSON's keys are texts
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} does not say what it is, so it was not made with format=aoti here; export it from the .pt file"
        ) from None
    return found


def origin_of(metadata: Mapping[str, Any]) -> Origin:
    """Where a package comes from."""
    known = metadata[BUILT_BY]
    torch, arch, gpu, machine = (str(known[key]) for key in ("torch", "arch", "gpu", "machine"))
    return Origin(torch, arch, gpu, machine, tuple(known["features"]))


def check_trusted(path: Path) -> None:
    """Refuse native code of others (promise 9).

    Raises:
        UserError: the package was not made here, or has changed since, and YOLOV12_TRUST_WEIGHTS is not 1.
    """
    if settings.current().trust_weights or cache.is_ours(settings.trt_cache_dir(), path.read_bytes()):
        return
    raise UserError(
        f"{path} is native code that was not made here, or has changed since: if you trust its author, type trust_weights=1 "
        f"(YOLOV12_TRUST_WEIGHTS=1); else {again(path)}"
    )


def check_fits(path: Path, made: Origin, here: Origin) -> None:
    """Refuse a package that can not run here.

    Raises:
        UserError: says what it was made for, what is here, and what to type.
    """
    lacking = sorted(set(made.features) - set(here.features))
    if (made.torch, made.arch, made.machine) == (here.torch, here.arch, here.machine) and not lacking:
        return
    words = f" without {', '.join(lacking)}" if lacking else ""
    raise UserError(f"{path} was made by {made}, and here is {here}{words}: {again(path)}")


def again(path: Path) -> str:
    """The command that makes a package anew."""
    stem = re.sub(r"_(cpu|sm_\d+)$", "", path.stem)
    return f"make it again with {program()} export model={path.with_name(stem)}.pt format=aoti"
