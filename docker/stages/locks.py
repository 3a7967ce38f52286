# SPDX-License-Identifier: AGPL-3.0-or-later
"""locks.py LOCK FOLDER: the hash lock in parts, in FOLDER, one for each layer of the environment. A part may be empty."""

from __future__ import annotations

import re
import sys
from pathlib import Path

LAYERS = {
    "cudnn-nccl": r"nvidia-(cudnn|cusparselt|nccl|nvshmem)-",
    "cuda": r"nvidia-|cuda-|tensorrt-",
    "torch": r"(torch|torchvision|triton)==",
    "others": "",
}
"""Layer -> how its packages' entries begin; the first that fits takes an entry."""


def entries(lock: str) -> list[str]:
    """The entries of a lock, each from its name to its last hash or comment."""
    return re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]


def by_layer(lock: str) -> dict[str, str]:
    """Layer -> its part of the lock, in the lock's order."""
    parts: dict[str, list[str]] = {layer: [] for layer in LAYERS}
    for entry in entries(lock):
        parts[next(layer for layer, begins in LAYERS.items() if re.match(begins, entry))].append(entry)
    return {layer: "".join(part) for layer, part in parts.items()}


def drifted(lock: str, constraints: str) -> list[str]:
    """What the lock has in another version than the pins, as "torch 2.11.0 (pinned 2.12.0)"."""
    pinned = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", constraints, re.MULTILINE))
    locked = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock, re.MULTILINE))
    return [
        f"{name} {locked[name]} (pinned {version})"
        for name, version in pinned.items()
        if locked.get(name, version) != version
    ]


def check_pins(folder: Path, names: list[str]) -> None:
    """Each lock of `names` has the versions of the pins that it was resolved under, which its comments name.

    Raises:
        ValueError: it has another one, so it was not made anew after a pin moved.
    """
    for name in names:
        text = (folder / name).read_text()
        named = re.search(r"-c env/locks/(constraints\S*\.txt)", text)
        found = drifted(text, (folder / named[1]).read_text()) if named else []
        if found:
            raise ValueError(f"{name} has {', '.join(found)}: type make lock")


def main(lock: Path, folder: Path) -> None:
    """Write the parts."""
    check_pins(lock.parent, [lock.name, "toolchain.txt", "build.txt"])
    folder.mkdir()
    for part, content in by_layer(lock.read_text()).items():
        (folder / f"{part}.txt").write_text(content)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except (OSError, ValueError) as error:
        sys.exit(f"locks.py {sys.argv[1]}: {error}")
