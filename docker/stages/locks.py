# SPDX-License-Identifier: AGPL-3.0-or-later
"""locks.py LOCK FOLDER ["NAME NAME ..."]: the hash lock in parts, in FOLDER.

Without names one part for each layer of the environment, what is optional in parts of its own; with names only these packages, in one part
(an image that needs few of them).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

LAYERS = {
    "cudnn-nccl": r"nvidia-(cudnn|cusparselt|nccl|nvshmem)-",
    "cuda": r"nvidia-|cuda-",
    "torch": r"(torch|torchvision|triton)==",
    "others": "",
}
"""Layer -> how its packages' entries begin; the first that fits takes an entry."""

OPTIONAL = {
    "dali": ("nvidia-dali-cuda130", "nvidia-nvjpeg"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu13-libs"),
}
"""Layer that an image may leave out -> what is asked for by name in it; what only these need goes with them."""


def entries(lock: str) -> list[str]:
    """The entries of a lock, each from its name to its last hash or comment."""
    return re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]


def name_of(entry: str) -> str:
    """The package of an entry."""
    return entry.split("==")[0]


def only_for(lock: str, roots: tuple[str, ...]) -> set[str]:
    """`roots`, and what no other package of the lock needs: by the lock's own comments ("# via")."""
    needed_by = {
        name_of(entry): set(re.findall(r"^ +#(?: via)? +(?! |via$|-c )(.+)$", entry, re.MULTILINE))
        for entry in entries(lock)
    }
    found = set(roots)
    while more := {name for name, by in needed_by.items() if by and by <= found} - found:
        found |= more
    return found


def by_layer(lock: str) -> dict[str, str]:
    """Layer -> its part of the lock, in the lock's order."""
    optional = {name: layer for layer, roots in OPTIONAL.items() for name in only_for(lock, roots)}
    parts: dict[str, list[str]] = {layer: [] for layer in (*LAYERS, *OPTIONAL)}
    for entry in entries(lock):
        usual = next(layer for layer, begins in LAYERS.items() if re.match(begins, entry))
        parts[optional.get(name_of(entry), usual)].append(entry)
    return {layer: "".join(part) for layer, part in parts.items()}


def only(lock: str, names: list[str]) -> str:
    """The entries of `names`.

    Raises:
        ValueError: the lock has none for one of them.
    """
    found = {name_of(entry): entry for entry in entries(lock)}
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"the lock has no {', '.join(missing)}")
    return "".join(found[name] for name in names)


def main(lock: Path, folder: Path, names: list[str]) -> None:
    """Write the parts."""
    folder.mkdir()
    text = lock.read_text()
    for part, content in ({"chosen": only(text, names)} if names else by_layer(text)).items():
        (folder / f"{part}.txt").write_text(content)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), " ".join(sys.argv[3:]).split())
    except (OSError, ValueError) as error:
        sys.exit(f"locks.py {sys.argv[1]}: {error}")
