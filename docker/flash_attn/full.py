# SPDX-License-Identifier: AGPL-3.0-or-later
"""Build upstream's whole `flash_attn` wheel from the pinned sdist, by upstream's own setup.py: FLASH_ATTN=full.

    /opt/yolov12/bin/python full.py --sdist flash_attn.tar.gz --sha256 HEX --version 1.2.3 --archs "80 90" --max-jobs auto \\
        --cuda-home /opt/cuda --include FOLDER --work FOLDER --out /wheel

Runs with the environment's Python, whose torch it is built against. 72 files, each for every arch: hours. It was not run to its end where this
was written. Exit code 2 with one sentence when something is not as it should be.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from build import code_archs
from hd32_sources import BuildError, verify

LIBRARY = "flash_attn_2_cuda"
"""How the name of upstream's library begins, at the top of site-packages."""
GIB_PER_JOB = 8
"""Memory of one compiler; the largest of the few files that were measured took 6.3 GiB (with one thread)."""


def jobs(asked: str, cores: int, available_gib: float) -> tuple[int, str]:
    """(compilers at once, reason). BuildError when `asked`, the caller's MAX_JOBS, is neither auto nor a whole number above 0."""
    if asked != "auto":
        if not asked.isdigit() or int(asked) == 0:
            raise BuildError(f"MAX_JOBS={asked}: type a whole number above 0, or leave it out")
        return int(asked), "MAX_JOBS"
    by_memory = max(1, int(available_gib // GIB_PER_JOB))
    if by_memory < cores:
        return by_memory, f"{GIB_PER_JOB} GiB each of {available_gib:.0f} GiB; MAX_JOBS=... sets another number"
    return cores, f"one for each of {cores} cores"


def environment(codes: list[str], count: int, cuda_home: Path, include: Path) -> dict[str, str]:
    """What upstream's setup.py reads, beside the caller's environment."""
    return {
        "FLASH_ATTN_CUDA_ARCHS": ";".join(codes),
        "FLASH_ATTN_LOCAL_VERSION": "full." + ".".join(f"sm{code}" for code in codes),
        "FLASH_ATTENTION_FORCE_BUILD": "TRUE",  # else it looks for a wheel on the network first
        "MAX_JOBS": str(count),
        "NVCC_THREADS": "1",  # else four archs at once in each of the jobs, whose memory nobody counts
        "CUDA_HOME": str(cuda_home),
        "CPATH": str(include),
    }


def pip_command(sdist: Path, out: Path) -> list[str]:
    """`pip wheel` of the sdist alone: nothing else is fetched."""
    return [
        *(sys.executable, "-m", "pip", "wheel", "--no-cache-dir", "--no-deps", "--no-build-isolation"),
        # --use-pep517: else setup.py itself fetches what it names, without a hash.
        *("--use-pep517", "--verbose", "--wheel-dir", str(out), str(sdist)),
    ]


def check_code(wheel: Path, codes: list[str], work: Path) -> None:
    """The library of the finished wheel has code for exactly these archs, else BuildError."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(LIBRARY) and name.endswith(".so")]
        if len(names) != 1:
            raise BuildError(f"{wheel.name} holds {len(names)} libraries {LIBRARY}*.so, not one")
        library = archive.extract(names[0], work)
    reader = Path(__file__).resolve().parents[1] / "gpu_code.py"
    if subprocess.run([sys.executable, str(reader), library, "--expect", " ".join(codes)], check=False).returncode:
        raise BuildError(f"{wheel.name} has not the code that was asked for (see above)")


def build(arguments: argparse.Namespace) -> Path:
    """Everything in order; the finished wheel."""
    codes, reasons = code_archs(arguments.archs)
    available_gib = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    count, why = jobs(arguments.max_jobs, len(os.sched_getaffinity(0)), available_gib)
    print("\n".join(reasons))
    print(
        f"flash-attn: upstream's whole for {len(codes)} archs with {count} compilers at once ({why}): this takes hours",
        flush=True,
    )
    verify(arguments.sdist, arguments.sha256)
    variables = environment(codes, count, arguments.cuda_home, arguments.include)
    arguments.out.mkdir(parents=True, exist_ok=True)
    command = pip_command(arguments.sdist, arguments.out)
    if subprocess.run(command, env=os.environ | variables, check=False).returncode:
        raise BuildError(f"upstream's build of {arguments.version} failed (see above)")
    wheels = list(arguments.out.glob("flash_attn-*.whl"))
    if len(wheels) != 1:
        raise BuildError(f"upstream's build left {len(wheels)} wheels in {arguments.out}, not one")
    check_code(wheels[0], codes, arguments.work)
    return wheels[0]


def main(argv: list[str] | None = None) -> int:
    """Parse, build, and turn a BuildError into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sdist", type=Path, required=True, help="upstream's source distribution")
    parser.add_argument("--sha256", required=True, help="its hash")
    parser.add_argument("--version", required=True, help="upstream's version")
    parser.add_argument("--archs", required=True, help='the GPU archs of the image, as "80 86 90"')
    parser.add_argument("--max-jobs", required=True, help="compilers at once; auto: as many as cores and memory allow")
    parser.add_argument("--cuda-home", type=Path, required=True, help="a CUDA toolkit, with bin/nvcc and lib64")
    parser.add_argument("--include", type=Path, required=True, help="headers of cuBLAS, cuSOLVER and cuSPARSE")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is temporary")
    parser.add_argument("--out", type=Path, required=True, help="folder for the wheel")
    try:
        made = build(parser.parse_args(argv))
    except BuildError as error:
        print(f"flash-attn: {error}", file=sys.stderr)
        return 2
    print(f"{made.name}: {made.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
