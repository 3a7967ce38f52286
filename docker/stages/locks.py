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


def main(lock: Path, folder: Path) -> None:
    """Write the parts."""
    folder.mkdir()
    for part, content in by_layer(lock.read_text()).items():
        (folder / f"{part}.txt").write_text(content)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except OSError as error:
        sys.exit(f"locks.py {sys.argv[1]}: {error}")
