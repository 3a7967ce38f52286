# SPDX-License-Identifier: AGPL-3.0-or-later
"""A hash of everything that goes into an image: the same hash, the same image (but for what Debian's mirror has updated in between).

    docker buildx bake --file docker/docker-bake.json --print train | python3 docker/inputs.py train

Over the Dockerfile, each file that .dockerignore lets through (stage scripts, locks, sources) with its mode, and the build's arguments.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def files(root: Path) -> list[Path]:
    """What the builder may read, sorted. Understands what .dockerignore here uses: `*`, `!path`, `path` and `**/name`."""
    lines = [line.strip() for line in (root / ".dockerignore").read_text().splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#") and line != "*"]
    let_through = [found for line in patterns if line.startswith("!") for found in root.glob(line[1:])]
    left_out = [line for line in patterns if not line.startswith("!")]
    below = [path for start in let_through for path in ([start] if start.is_file() else start.rglob("*"))]
    kept = {path for path in below if path.is_file() and not _is_left_out(path.relative_to(root), left_out)}
    return sorted({*kept, root / "docker/Dockerfile"})


def _is_left_out(path: Path, patterns: list[str]) -> bool:
    anywhere = [pattern.removeprefix("**/") for pattern in patterns if pattern.startswith("**/")]
    if any(fnmatch.fnmatch(part, pattern) for part in path.parts for pattern in anywhere):
        return True
    return any(path.is_relative_to(pattern) for pattern in patterns if not pattern.startswith("**/"))


def digest(root: Path, arguments: dict[str, str]) -> str:
    """sha256 over names, modes and contents of `files`, and the arguments but for the hash itself and how many compilers run at once."""
    total = hashlib.sha256()
    for file in files(root):
        executable = bool(file.stat().st_mode & 0o100)
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{content} {'x' if executable else '-'} {file.relative_to(root).as_posix()}\n".encode())
    named = {name: value for name, value in arguments.items() if name not in ("INPUTS", "MAX_JOBS")}
    total.update(json.dumps(named, sort_keys=True).encode())
    return total.hexdigest()


if __name__ == "__main__":
    print(digest(ROOT, json.load(sys.stdin)["target"][sys.argv[1]]["args"]))
