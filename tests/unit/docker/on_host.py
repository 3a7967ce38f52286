# SPDX-License-Identifier: AGPL-3.0-or-later
"""Kernels of docker/kernels compiled by g++ for the CPU (cuda_on_host), so that tests without a GPU can run them."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STAND_INS = HERE / "cuda_on_host"
LAUNCH = re.compile(r"(\w+(?:<[^;{}]*?>)?)\s*<<<(.*?), 0, stream>>>\((.*?)\);", re.DOTALL)
APPROXIMATE = re.compile(r'asm\("(\w+)\.approx\.ftz\.f32 %0, %1;" : "=f"\((\w+)\) : "f"\((.+)\)\);')
"""An instruction of one number, as sigmoid.cuh has them; exactly, it is what STANDS_FOR says."""
STANDS_FOR = {"ex2": "exp2f", "rcp": "1.0f / "}
OPTIONS = ["-shared", "-fPIC", "-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
"""nvcc's pragmas mean nothing to g++; and it would round a product and a sum at once where the processor can."""


def compiled(
    kernels: Path,
    name: str,
    folder: Path,
    launches: int = 0,
    options: Sequence[str] = (),
    changed: Callable[[str], str] = lambda text: text,
    beside: Sequence[str] = (),
    instead: Sequence[str] = (),
) -> ctypes.CDLL:
    """`name`.cu with `name`_on_host.cpp. Skips the test where g++ is not installed.

    Args:
        kernels: docker/kernels.
        name: of the source, without its end.
        folder: an empty one.
        launches: how many of kernels the sources have in CUDA's own words; `launch` of pipeline.cuh is a function.
        options: further ones of g++.
        changed: what else g++ does not understand, said otherwise, in sources and headers.
        beside: names of further sources.
        instead: names of the sources where there is no `name`.cu.
    """
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    sources, found = [str(HERE / f"{name}_on_host.cpp")], 0
    for source in (*(instead or [name]), *beside):
        text, here = LAUNCH.subn(r"launch(\2, [=] { \1(\3); });", (kernels / f"{source}.cu").read_text())
        (folder / f"{source}.cpp").write_text(changed(text))
        sources.append(str(folder / f"{source}.cpp"))
        found += here
    assert found == launches
    # Away from their own folder, since what is included with quotes is looked for beside the file first.
    for header in {*kernels.glob("*.h"), *kernels.glob("*.cuh")}:
        if not (STAND_INS / header.name).exists():
            (folder / header.name).write_text(changed(_without_assembly(header.read_text())))
    library = folder / "on_host.so"
    command = ["g++", *OPTIONS, *options, f"-I{folder}", f"-I{STAND_INS}", *sources, "-o", str(library)]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


def _without_assembly(text: str) -> str:
    return APPROXIMATE.sub(lambda found: f"{found[2]} = {STANDS_FOR[found[1]]}({found[3]});", text)
