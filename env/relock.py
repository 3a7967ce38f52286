# SPDX-License-Identifier: AGPL-3.0-or-later
"""Make anew all that follows from env/*.yaml, or leave every file as it was: `make lock`. env/bump.py does it with a pin that it has changed."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from packaging.utils import canonicalize_name
from render import PAGES, ROOT, WHOLE_FILES
from workflow import WORKFLOW

LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


class Undone(Exception):
    """What was asked for can not be done, and every file is as before. The message says why."""


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """0: done; 2: a program failed, and every file is as before."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="the newest of everything that is not pinned by name")
    options = parser.parse_args(arguments)
    try:
        before = locked(root)
        for line in relock(root, ["--upgrade"] if options.upgrade else []):
            print(line, flush=True)
    except Undone as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(difference(before, locked(root)) or ["locked: every package as before"]))
    return 0


def relock(root: Path, lock_options: Sequence[str] = ()) -> Iterator[str]:
    """Render and lock, saying what happens.

    Raises:
        Undone: one of the programs failed; what it had written was put back.
    """
    rendered = [root / name for name in (*WHOLE_FILES, *PAGES, WORKFLOW)]
    with kept_on_failure([*rendered, *(root / "env/locks").glob("*.txt")]):
        for script, options in (("env/render.py", ()), ("env/workflow.py", ()), ("env/lock.py", lock_options)):
            yield f"running {script}"
            run(script, root, options)


@contextmanager
def kept_on_failure(paths: list[Path]) -> Iterator[None]:
    """Put the files back as they were if the block ends in any error, an interruption among them; remove what was not there."""
    before = {path: path.read_bytes() if path.exists() else None for path in paths}
    try:
        yield
    except BaseException:
        for path, content in before.items():
            if content is not None:
                path.write_bytes(content)
            else:
                path.unlink(missing_ok=True)
        raise


def run(script: str, root: Path, options: Sequence[str] = ()) -> None:
    """Run one of env/'s programs; Undone with its own words if it fails."""
    done = subprocess.run([sys.executable, script, *options], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.partition("Traceback (most recent call last)")[0].strip() or done.stderr.strip()
        raise Undone(f"{script} failed, and every file is as before:\n{words}")


def locked(root: Path) -> dict[str, set[str]]:
    """What the locks hold: name -> its versions over all of them."""
    found: dict[str, set[str]] = {}
    for path in (root / "env/locks/build.txt", *(root / "env/locks").glob("*-py*.txt")):
        for name, version in LOCKED.findall(path.read_text(encoding="utf-8")):
            found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def difference(before: Mapping[str, set[str]], after: Mapping[str, set[str]]) -> list[str]:
    """`name old -> new` for each package that locking changed."""
    words = {
        name: [" ".join(sorted(locks.get(name, {"none"}))) for locks in (before, after)] for name in {*before, *after}
    }
    return [f"locked: {name} {old} -> {new}" for name, (old, new) in sorted(words.items()) if old != new]


if __name__ == "__main__":
    sys.exit(main())
