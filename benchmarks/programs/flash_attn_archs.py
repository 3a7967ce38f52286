# SPDX-License-Identifier: AGPL-3.0-or-later
"""The FlashAttention wheel for each GPU arch that has code of its own, and for all of them: CPU time of its build, and its size.

Needs what the program flash_attn_build needs: CUDA_HOME and FLASH_ATTN_SDIST in the environment.
"""

from __future__ import annotations

from benchmarks.harness import Benchmark, Job, Measured, Row
from benchmarks.programs.flash_attn_build import TOOLS, build_wheel, check_tools
from benchmarks.record import DECLARED

ARCHS = {"sm80": "80", "sm90": "90", "sm100": "100", "sm120": "120", "all": "80 90 100 120"}
"""End of a row's name -> what the wheel is built for."""


def _rows() -> list[Row]:
    rows = []
    for name, archs in ARCHS.items():
        rows.append(Row(f"fa_build_{name}", "s", "lower", f"CPU time of the compilers, ARCHS={archs}"))
        rows.append(Row(f"fa_wheel_{name}", "MB", "lower", "the wheel, 1e6 bytes"))
    return rows


def run_side(job: Job) -> Measured:
    """Build a wheel for each of `ARCHS` of which a row was asked for."""
    check_tools(job.parameters)
    measured = Measured(declared=dict.fromkeys(DECLARED))
    for name, archs in ARCHS.items():
        build, size = f"fa_build_{name}", f"fa_wheel_{name}"
        if not {build, size} & set(job.rows):
            continue
        out = job.scratch / name
        out.mkdir()
        cpu_s, wall_s, wheel = build_wheel(job.parameters, archs, out)
        measured.values |= {build: cpu_s, size: wheel.stat().st_size / 1e6}
        measured.notes[build] = f"{wall_s:.0f} s on the clock with {job.parameters['jobs']} compilers at once"
        measured.notes[size] = wheel.name
    return measured


BENCHMARK = Benchmark(
    name="flash_attn_archs",
    claim="what FlashAttention for head_dim 32 costs to build and to carry, for each GPU arch",
    rows=tuple(_rows()),
    needs="cpu",
    run_side=run_side,
    sides=("ours",),
    parameters=TOOLS,
    repeats=1,
    timeout_s=2 * 3600,
)
