# SPDX-License-Identifier: AGPL-3.0-or-later
"""locks.py LOCK FOLDER [--beyond OTHER | "NAME NAME ..."]: the hash lock in parts, in FOLDER.

Without names one part for each layer of the environment, what is optional in parts of its own, and any may be empty; with names only these
packages, in one part (a stage that needs few of them); with another lock one part of what that does not have (an image that is made from another).
"""

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


def only(lock: str, names: list[str]) -> str:
    """The entries of `names`.

    Raises:
        ValueError: the lock has none for one of them.
    """
    found = {name_of(entry): entry for entry in entries(lock)}
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"the lock has no {', '.join(missing)}")
    return "".join(found[name] for name in names)


def beyond(lock: str, other: str) -> str:
    """The entries of `lock` for packages that `other` does not have."""
    there = {name_of(entry) for entry in entries(other)}
    return "".join(entry for entry in entries(lock) if name_of(entry) not in there)


def parts_of(lock: str, more: list[str]) -> dict[str, str]:
    """Name -> content of each part; `more` as on the command line."""
    if more[:1] == ["--beyond"]:
        return {"beyond": beyond(lock, Path(more[1]).read_text())}
    names = " ".join(more).split()
    return {"chosen": only(lock, names)} if names else by_layer(lock)


def main(lock: Path, folder: Path, more: list[str]) -> None:
    """Write the parts."""
    check_pins(lock.parent, [lock.name, "toolchain.txt", "build.txt"])
    folder.mkdir(exist_ok=True)
    for part, content in parts_of(lock.read_text(), more).items():
        (folder / f"{part}.txt").write_text(content)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    except (OSError, ValueError) as error:
        sys.exit(f"locks.py {sys.argv[1]}: {error}")
