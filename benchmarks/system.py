# SPDX-License-Identifier: AGPL-3.0-or-later
"""The circumstances of a record: device, versions, commit. Nothing names the machine: no host name, no disk path."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import socket
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
MEASURED_CODE = ("yolov12", "benchmarks")
"""Folders whose Python files can change a number."""
PACKAGES = (
    "torch",
    "torchvision",
    "ultralytics",
    "numpy",
    "opencv-python-headless",
    "onnx",
    "onnxruntime",
    "tensorrt-rtx-cu13",
    "flash-attn",
    "triton",
    "nvidia-cudnn-cu13",
    "nvidia-dali-cuda130",
    "polars",
    "faster-coco-eval",
)
_ABSOLUTE_PATH = re.compile(r"(?<![\w:/.~])(?:/[\w.+@%-]+)+/([\w.+@%-]+)")
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
"""Colours and movements of the cursor; what is said to the terminal itself, such as a title or a link; and the short ones."""


def slug(name: str) -> str:
    """`NVIDIA H100 80GB HBM3` -> `nvidia-h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def cores() -> int:
    """CPU cores that this process may use, which is fewer than the machine's when it is held to some."""
    return len(os.sched_getaffinity(0))


def _nvidia_smi(field: str) -> list[str]:
    """One line per GPU, none without a working driver. Not asked of torch, which would take GPU memory to answer."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"], capture_output=True, text=True, timeout=60
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return []
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def gpus() -> list[str]:
    """Names of the GPUs."""
    return _nvidia_smi("name")


def gpu_memory_gib() -> float:
    """Of the first GPU, whole; 0 without one, or where the driver does not say."""
    first = re.match(r"(\d+) MiB", next(iter(_nvidia_smi("memory.total")), ""))  # [N/A] where it is the host's
    return int(first[1]) / 1024 if first else 0.0


def device(gpus_used: int) -> str:
    """The record's device: `nvidia-h100-80gb-hbm3`, with `-x2` for two of them, or `cpu-2-cores` for none."""
    names = gpus()[:gpus_used]
    if not names:
        return f"cpu-{cores()}-cores"
    return slug(names[0]) + (f"-x{len(names)}" if len(names) > 1 else "")


def versions() -> dict[str, str]:
    """Python, driver and the installed ones of `PACKAGES`."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    drivers = _nvidia_smi("driver_version")
    return found | ({"nvidia-driver": drivers[0].strip()} if drivers else {})


def _git(*arguments: str, root: Path = ROOT) -> str | None:
    try:
        answer = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def code_digest(root: Path = ROOT) -> str:
    """First 12 hex digits over the Python files of `MEASURED_CODE`: the same on two machines means the same code."""
    digest = hashlib.sha256()
    for path in sorted(p for folder in MEASURED_CODE for p in (root / folder).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def commit(root: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    """The commit that is measured, `-dirty` if the code differs from it, `unknown` if nothing tells.

    Without git, YOLOV12_COMMIT tells, as `<commit>` or as `<commit>:<code digest>`: with the digest, carried code that was changed afterwards shows
    as dirty. Told with the digest of this very code it is believed before git, whose HEAD may be older where only the files were copied.
    """
    told = (os.environ if environment is None else environment).get("YOLOV12_COMMIT", "")
    name, _, digest = told.partition(":")
    is_name = re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?", name) is not None
    if is_name and digest and digest == code_digest(root):
        return name
    head = _git("rev-parse", "--verify", "HEAD", root=root)
    # A copy that was unpacked inside some other checkout has that one's HEAD, which says nothing about it.
    if head and _git("rev-parse", "--show-prefix", root=root) == "":
        dirty = _git("status", "--porcelain", "--", *(f"{folder}/*.py" for folder in MEASURED_CODE), root=root)
        return head + ("-dirty" if dirty else "")
    if not is_name:
        return "unknown"
    changed = bool(digest) and digest != code_digest(root)
    return name + ("-dirty" if changed and not name.endswith("-dirty") else "")


def still(measured: str, digest: str, root: Path = ROOT) -> str:
    """`measured`, the commit at the start of a run; `-dirty` if the code no longer has the `digest` that it had then."""
    moved = code_digest(root) != digest and not measured.endswith("-dirty") and measured != "unknown"
    return measured + ("-dirty" if moved else "")


def age(measured: str, root: Path = ROOT) -> str:
    """How the code moved on since a record's commit: empty if it did not, else the words for the report."""
    base = measured.removesuffix("-dirty")
    dirty = " with uncommitted changes" if measured != base else ""
    if base == "unknown":
        return ""  # the record's commit says it
    since = _git("rev-list", "--count", f"{base}..HEAD", "--", "yolov12", root=root)
    if since is None:
        return f"commit {base[:10]}{dirty}, which is not in this history"
    if since == "0":
        return f"made{dirty}" if dirty else ""
    return f"made by an older commit{dirty}: {since} since then changed yolov12/"


def scrub(text: str, hosts: Iterable[str] = ()) -> str:
    """`text` without what belongs to the machine: absolute paths keep their last part; host names and escape codes go.

    Args:
        text: of any number of lines.
        hosts: further names that the machine has, or that another machine had.
    """
    text = _ABSOLUTE_PATH.sub(r".../\1", _ANSI.sub("", text).replace("file://", ""))
    here = socket.gethostname()
    names = [*hosts, *([here] if len(here) > 3 and here != "localhost" else [])]
    for name in sorted(filter(None, names), key=len, reverse=True):  # a long one may begin with a short one
        text = re.sub(rf"\b{re.escape(name)}\b", "<host>", text)
    return text
