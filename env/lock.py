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
) -> None:
    """Run `uv pip compile` from the repository root, so that the paths it writes into the lock are relative."""
    command = [
        *(str(Path(sys.executable).parent / "uv"), "pip", "compile", "--quiet", "--generate-hashes", "--no-build"),
        *("--python-version", python, "--python-platform", platform),
        *("--constraint", f"env/locks/{constraints}", "--override", "env/locks/overrides.txt"),
        *("--custom-compile-command", "make lock", "--output-file", str(target.relative_to(ROOT))),
        *(["--upgrade"] if upgrade else []),
        *source,
    ]
    subprocess.run(command, cwd=ROOT, input=stdin, text=True, check=True)
    print(f"locked: {target.relative_to(ROOT)}")


def main(upgrade: bool) -> None:
    """Write build.txt, toolchain.txt and one lock for each set and Python."""
    pins = load()
    groups = dict(pins.matrix["locks"])
    groups["dev"] = {"extras": sorted({extra for entry in groups.values() for extra in entry["extras"]} | {"dev"})}
    platform, pythons = pins.versions["platform"]["name"], pins.lock_pythons
    # hatchling's requirements are the same on every Python of the range; tests/unit/env holds that.
    tools = "".join(f"{name}\n" for name in BUILD_TOOLS)
    compile_lock(LOCKS / "build.txt", pythons[0], platform, ["-"], upgrade, stdin=tools)
    # Programs and headers: their wheels are for every Python.
    compilers = "".join(f"{name}\n" for name in TOOLCHAIN)
    compile_lock(LOCKS / "toolchain.txt", pythons[0], platform, ["-"], upgrade, stdin=compilers)
    for group, entry in groups.items():
        chosen = [argument for extra in entry["extras"] for argument in ("--extra", extra)]
        constraints = constraints_name(pins, entry.get("cuda", pins.cuda))
        for python in entry.get("pythons", pythons):
            target, source = LOCKS / lock_name(group, python), ["pyproject.toml", *chosen]
            more = "".join(f"{name}\n" for name in entry.get("more", []))
            compile_lock(
                target, python, platform, [*source, *(["-"] if more else [])], upgrade, more, constraints=constraints
            )


if __name__ == "__main__":
    main(upgrade=sys.argv[1:] == ["--upgrade"])
