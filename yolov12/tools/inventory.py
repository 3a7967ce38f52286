# SPDX-License-Identifier: AGPL-3.0-or-later
"""What lies in this environment, and in the image around it: packages and bytes. Reads files only, and needs nothing but Python."""

from __future__ import annotations

import os
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

GROUPS = {
    "DALI": r"nvidia-(dali|nvimgcodec|nvjpeg2k|nvtiff|libnvcomp)-",
    "TensorRT": r"tensorrt-",
    "CUDA libraries": r"nvidia-|cuda-",
    "torch, torchvision": r"torch$|torchvision$",
    "Triton": r"triton$",
    "FlashAttention": r"flash-attn$",
    "our kernels": r"yolov12-kernels$",
    "OpenCV": r"opencv-",
    "ONNX, ONNX Runtime": r"onnx",
    "yolov12, ultralytics": r"yolov12|ultralytics",
}
"""Group of the size table -> which packages are in it; the first that fits."""
OTHERS = "other Python packages"
COMPILED = "compiled Python (pyc)"
COMPILER = "C and C++ compilers"
SYSTEM = "Debian and Python"

COMPILER_FOLDERS = ("/usr/lib/gcc/", "/usr/libexec/gcc/", "/usr/include/", "/usr/share/binutils")
COMPILER_FILES = re.compile(
    r"/usr/(bin/x86_64-linux-gnu-|lib/x86_64-linux-gnu/(lib(bfd|opcodes|sframe|[alt]san|ubsan|gprofng)|[^/]*\.[ao]$))"
)


def canonical(name: str) -> str:
    """A distribution's name as the index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, Distribution]:
    """Every distribution of this environment by its canonical name."""
    return {canonical(found.name): found for found in distributions(path=[site_packages()])}


def site_packages() -> str:
    """The folder that packages are installed in."""
    return sysconfig.get_path("purelib")


def group_of(package: str) -> str:
    """The group of the size table that a package belongs to."""
    return next((group for group, names in GROUPS.items() if re.match(names, package)), OTHERS)


def owners(found: dict[str, Distribution]) -> dict[str, str]:
    """Top-level path in site-packages -> group. Two levels deep under `nvidia`, which many packages share."""
    known: dict[str, str] = {}
    for name, distribution in found.items():
        for file in distribution.files or []:
            known.setdefault(_top(file.parts), group_of(name))
    return known


def _top(parts: tuple[str, ...]) -> str:
    return "/".join(parts[: 2 if parts[0] == "nvidia" else 1])


def environment_bytes(found: dict[str, Distribution], folder: str) -> Counter[str]:
    """Group -> bytes of the files below `folder`, a site-packages."""
    known, sizes = owners(found), Counter[str]()
    for path, size in files_below(folder):
        parts = Path(os.path.relpath(path, folder)).parts
        sizes[COMPILED if parts[-1].endswith(".pyc") else known.get(_top(parts), OTHERS)] += size
    return sizes


def image_bytes(found: dict[str, Distribution], folder: str) -> Counter[str]:
    """Group -> bytes of the whole root file system, without what is mounted into it."""
    sizes = environment_bytes(found, folder)
    for path, size in files_below("/", skip=folder):
        is_compiler = path.startswith(COMPILER_FOLDERS) or COMPILER_FILES.match(path)
        sizes[COMPILER if is_compiler else SYSTEM] += size
    return sizes


def files_below(folder: str, skip: str = "") -> Iterator[tuple[str, int]]:
    """(path, bytes) of each regular file on the same file system, a hard-linked one once. What can not be read is left out."""
    try:
        device = os.stat(folder).st_dev
    except OSError:
        return
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.path == skip:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
                is_folder, is_file = entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False)
            except OSError:
                continue
            if is_folder and status.st_dev == device:
                waiting.append(entry.path)
            # A file's device says nothing where layers are stacked (overlayfs).
            elif is_file and (status.st_nlink == 1 or (status.st_dev, status.st_ino) not in seen):
                seen.add((status.st_dev, status.st_ino))
                yield entry.path, status.st_size
