# SPDX-License-Identifier: AGPL-3.0-or-later
"""Resolve pyproject.toml under the pins of env/versions.yaml into the hash locks of env/locks/: `make lock`.

A lock keeps the versions that it has where the pins allow it; `make lock UPGRADE=1` takes the newest of everything that is not pinned by
name. Only wheels are accepted, so that installing a lock compiles nothing and runs no setup.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from compatibility import TOOLCHAIN
from render import ROOT, constraints_name, load, lock_name

LOCKS = ROOT / "env/locks"
# What installs the rest, so it must come through pip alone: env/setup.sh and the image's builder stage.
BUILD_TOOLS = ["uv", "hatchling"]


def compile_lock(
    target: Path,
    python: str,
    platform: str,
    source: list[str],
    upgrade: bool,
    stdin: str = "",
    constraints: str = "constraints.txt",
    like: Path | None = None,
) -> None:
    """Run `uv pip compile` from the repository root, so that the paths it writes into the lock are relative.

    `like` is another lock: a package that is in both has its version.
    """
    command = [
        *(str(Path(sys.executable).parent / "uv"), "pip", "compile", "--quiet", "--generate-hashes", "--no-build"),
        *("--python-version", python, "--python-platform", platform),
        *("--constraint", f"env/locks/{constraints}", "--override", "env/locks/overrides.txt"),
        *(["--constraint", str(like.relative_to(ROOT))] if like else []),
        *("--custom-compile-command", "make lock", "--output-file", str(target.relative_to(ROOT))),
        *(["--upgrade"] if upgrade else []),
        *source,
    ]
    subprocess.run(command, cwd=ROOT, input=stdin, text=True, check=True)
    print(f"locked: {target.relative_to(ROOT)}")


def options(extras: list[str]) -> list[str]:
    """uv's options for these extras."""
    return [argument for extra in extras for argument in ("--extra", extra)]


def main(upgrade: bool) -> None:
    """Write build.txt, toolchain.txt and one lock for each set and Python."""
    pins = load()
    entries = pins.matrix["locks"]
    ours = {group: entry for group, entry in entries.items() if "project" not in entry}
    # Without what is optional: a checkout's environment has no use for it. Nor what another CUDA line alone needs.
    ours["dev"] = {
        "extras": sorted({extra for entry in ours.values() for extra in entry["extras"]} | {"dev"}),
        "more": sorted({name for entry in ours.values() if "cuda" not in entry for name in entry.get("more", [])}),
    }
    platform, pythons = pins.versions["platform"]["name"], pins.lock_pythons
    # hatchling's requirements are the same on every Python of the range; tests/unit/env holds that.
    tools = "".join(f"{name}\n" for name in BUILD_TOOLS)
    compile_lock(LOCKS / "build.txt", pythons[0], platform, ["-"], upgrade, stdin=tools)
    # Programs and headers: their wheels are for every Python.
    compilers = "".join(f"{name}\n" for name in TOOLCHAIN)
    compile_lock(LOCKS / "toolchain.txt", pythons[0], platform, ["-"], upgrade, stdin=compilers)
    for group, entry in ours.items():
        source = ["pyproject.toml", *options([*entry["extras"], *entry.get("optional", [])])]
        more = "".join(f"{name}\n" for name in entry.get("more", []))
        constraints = constraints_name(pins, entry.get("cuda", pins.cuda))
        for python in entry.get("pythons", pythons):
            target = LOCKS / lock_name(group, python)
            compile_lock(target, python, platform, [*source, *(["-"] if more else [])], upgrade, more, constraints)
    # Last, since what they share with the train image follows its lock.
    for group, entry in entries.items():
        for python in entry["pythons"] if "project" in entry else ():
            source = [f"{entry['project']}/pyproject.toml", *options(entry["extras"])]
            like = LOCKS / lock_name("train", python)
            compile_lock(LOCKS / lock_name(group, python), python, platform, source, upgrade, like=like)


if __name__ == "__main__":
    main(upgrade=sys.argv[1:] == ["--upgrade"])
