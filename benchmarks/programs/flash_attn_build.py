# SPDX-License-Identifier: AGPL-3.0-or-later
"""What it costs to have FlashAttention: upstream's whole build by hand, or our wheel for head_dim 32.

Upstream's build takes hours, so some of its files are compiled as its setup.py would (without our switches and edits) and the rest is
extrapolated from their names: a kernel's time depends on its direction and head_dim. Needs nvcc and the sdist, which the image's stages
`toolchain` and `flash-attn` fetch: CUDA_HOME and FLASH_ATTN_SDIST in the environment say where they are.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import Benchmark, BenchmarkError, Job, Measured, Row, Setting
from benchmarks.record import DECLARED
from benchmarks.system import ROOT

BUILDER = ROOT / "docker/flash_attn"
SAMPLE = (
    "flash_fwd_hdim32_fp16_sm80.cu",
    "flash_bwd_hdim32_fp16_sm80.cu",
    "flash_bwd_hdim128_fp16_sm80.cu",
    "flash_fwd_split_hdim64_fp16_sm80.cu",
)
"""All others are taken to need what their nearest kind does. Larger head dimensions need more, so the forward's share is a low estimate."""
TOOLS: dict[str, Setting] = {
    "cuda_home": os.environ.get("CUDA_HOME", "/opt/cuda"),
    "sdist": os.environ.get("FLASH_ATTN_SDIST", "not given"),
    "jobs": os.cpu_count() or 1,
}
ROWS = (
    Row(
        "flash_attn_build",
        "s",
        "lower",
        "CPU time of the compilers, one GPU arch: what else runs on the machine hardly counts; stock extrapolated from a sample",
    ),
    Row("flash_attn_wheel", "MB", "lower", "the wheel, 1e6 bytes; upstream's was not built to its end"),
)


def run_side(job: Job) -> Measured:
    """Build ours whole, or a sample of upstream's files."""
    check_tools(job.parameters)
    return _ours(job) if job.side == "ours" else _upstream(job)


def check_tools(parameters: Mapping[str, Any]) -> None:
    """The compiler and the sources are there.

    Raises:
        BenchmarkError: one is not.
    """
    for name, variable in (("cuda_home", "CUDA_HOME"), ("sdist", "FLASH_ATTN_SDIST")):
        if not Path(str(parameters[name])).exists():
            raise BenchmarkError(f"there is no {name} {parameters[name]!r}: name it with {variable}=PATH")


def _ours(job: Job) -> Measured:
    cpu_s, wall_s, wheel = build_wheel(job.parameters, str(job.parameters["arch"]), job.scratch)
    said = f"{wheel.name}, {wall_s:.0f} s on the clock with {job.parameters['jobs']} compilers at once"
    return Measured(
        declared=dict.fromkeys(DECLARED),
        values={"flash_attn_build": cpu_s, "flash_attn_wheel": wheel.stat().st_size / 1e6},
        notes={"flash_attn_build": said},
    )


def build_wheel(parameters: Mapping[str, Any], archs: str, out: Path) -> tuple[float, float, Path]:
    """Build our wheel for `archs` ("80 90") into the empty folder `out`: (CPU seconds, seconds on the clock, the wheel).

    Raises:
        subprocess.CalledProcessError: the build has said why.
    """
    pin = yaml.safe_load((ROOT / "env/versions.yaml").read_text())["sources"]["flash-attn"]
    began_s, began_cpu_s = time.monotonic(), _children_cpu_s()
    command = [
        sys.executable,
        "build.py",
        "--version",
        pin["version"],
        "--sha256",
        pin["sha256"],
        "--out",
        str(out),
        "--archs",
        archs,
    ]
    for option, name in (("--sdist", "sdist"), ("--cuda-home", "cuda_home"), ("--jobs", "jobs")):
        command += [option, str(parameters[name])]
    subprocess.run([*command, "--torch-python", sys.executable], check=True, cwd=BUILDER, stdout=sys.stderr)
    (wheel,) = out.glob("*.whl")
    return _children_cpu_s() - began_cpu_s, time.monotonic() - began_s, wheel


def _upstream(job: Job) -> Measured:
    sys.path.insert(0, str(BUILDER))
    import build
    import hd32_sources as sources
    from native.build import inspect_torch

    sources.unpack(Path(str(job.parameters["sdist"])), job.scratch)
    torch, cuda_home = inspect_torch(Path(sys.executable)), Path(str(job.parameters["cuda_home"]))
    files = sorted(path.name for path in (job.scratch / sources.SOURCES).glob("*.cu"))
    command = next(iter(build.compile_commands(job.scratch, cuda_home, torch, [str(job.parameters["arch"])]).values()))
    options = [
        word
        for word in command[: command.index("-o")]
        if "DISABLE" not in word and not word.startswith("-frandom-seed") and not word.endswith((".cu", ".o"))
    ]
    # What upstream includes of cuBLAS, cuSPARSE and cuSOLVER, our edits do without.
    options += ["-isystem", str(torch.folder.parent / "nvidia/cu13/include")]
    taken_s = {}
    for name in SAMPLE:
        began_s = _children_cpu_s()
        subprocess.run([*options, f"{sources.SOURCES}/{name}", "-o", f"{name}.o"], check=True, cwd=job.scratch)
        taken_s[name] = _children_cpu_s() - began_s
        print(f"{name}: {taken_s[name]:.0f} s of CPU time", file=sys.stderr)
    whole_s = extrapolated_s(files, taken_s)
    hours = whole_s / int(job.parameters["jobs"]) / 3600
    shown = ", ".join(f"{name} {spent_s:.0f}" for name, spent_s in taken_s.items())
    return Measured(
        declared=dict.fromkeys(DECLARED),
        values={"flash_attn_build": whole_s},
        notes={
            "flash_attn_build": f"extrapolated for {len(files)} files, {hours:.1f} h on idle {job.parameters['jobs']} cores; measured, s: {shown}"
        },
        failed={"flash_attn_wheel": "not built to its end"},
    )


def extrapolated_s(files: Iterable[str], sample_s: Mapping[str, float]) -> float:
    """CPU time of all files, each as long as the sampled one of its direction whose head_dim is nearest (the smaller of two)."""

    def kind(name: str) -> tuple[str, int]:
        found = re.fullmatch(r"flash_(fwd_split|fwd|bwd)_hdim(\d+)_\w+\.cu", name)
        if not found:
            raise BenchmarkError(f"{name} is not named as flash-attn's kernels are")
        return found[1], int(found[2])

    known = {kind(name): spent_s for name, spent_s in sample_s.items()}

    def like(name: str) -> float:
        direction, head_dim = kind(name)
        candidates = [
            (abs(other - head_dim), other, spent_s) for (way, other), spent_s in known.items() if way == direction
        ]
        return min(candidates)[2]

    return sum(map(like, files))


def _children_cpu_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


BENCHMARK = Benchmark(
    name="flash_attn_build",
    claim="FlashAttention for head_dim 32 from the pinned sdist, against building all of it",
    rows=ROWS,
    needs="cpu",
    run_side=run_side,
    parameters={**TOOLS, "arch": "90"},
    repeats=1,
    timeout_s=2 * 3600,
)
