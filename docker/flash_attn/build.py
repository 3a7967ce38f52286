# SPDX-License-Identifier: AGPL-3.0-or-later
"""Build the `flash_attn` wheel for head dimension 32 alone, from the pinned upstream sdist.

    python3 build.py --sdist flash_attn.tar.gz --sha256 HEX --version 1.2.3 --archs "80 90" \
        --cuda-home /opt/cuda --torch-python /opt/yolov12/bin/python --jobs 2 --out /wheel

The wheel serves every Python that has the torch it was built against: the library registers torch ops and includes no Python header.
Exit code 2 with one sentence when something is not as it should be.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where `native` is

import hd32_sources as sources
from native import wheel
from native.build import (
    BuildError,
    Torch,
    build_folder,
    compile_all,
    gxx_command,
    here,
    inspect_both,
    link_command,
    nvcc_command,
    run,
)

sys.path.pop(0)  # beside `native` lies a folder called flash_attn, which would be found as the package of that name

HERE = Path(__file__).resolve().parent
LIBRARY = "_hd32.so"
CODE_FOR = {"75": None, "80": "80", "86": "80", "89": "80", "90": "90", "100": "100", "120": "120"}
"""GPU arch -> the code that serves it; None: none of this wheel."""


def code_archs(archs: str) -> tuple[list[str], list[str]]:
    """(archs to compile for, reasons) for the GPU archs that the image is for, as "80 86 90".

    A cubin runs on later GPUs of its own major version, so sm_86 and sm_89 are served by the code for sm_80. There is no FlashAttention
    for sm_75: there the package's callers fall back to torch's SDPA.

    Raises:
        BuildError: an arch that is not known, or none that this wheel could serve.
    """
    asked = archs.split()
    known = " ".join(CODE_FOR)
    if unknown := [arch for arch in asked if arch not in CODE_FOR]:
        raise BuildError(f"ARCHS={archs!r}: {' and '.join(unknown)} not known; choose from {known}")
    codes = sorted({code for arch in asked if (code := CODE_FOR[arch])}, key=int)
    if not codes:
        raise BuildError(
            f"ARCHS={archs!r} names no GPU that FlashAttention has code for (sm_80 and newer):"
            f" choose from {known}, or set FLASH_ATTN=none"
        )
    return codes, [_reason(arch, CODE_FOR[arch]) for arch in sorted(set(asked), key=int)]


def _reason(arch: str, code: str | None) -> str:
    if code is None:
        return f"sm_{arch}: no FlashAttention before sm_80, so torch's SDPA serves it"
    return f"sm_{arch}: code of its own" if code == arch else f"sm_{arch}: runs the code for sm_{code}"


def compile_commands(root: Path, cuda_home: Path, torch: Torch, codes: list[str]) -> dict[str, list[str]]:
    """Object file -> the command that makes it, run in `root`. Paths into it are relative, so that they do not get into the objects."""
    defines = [f"-DFLASHATTENTION_DISABLE_{name}" for name in sources.DISABLED]
    common = [*defines, f"-I{sources.SOURCES}", f"-I{sources.CUTLASS}"]
    # torch's headers expect that fp16 and bf16 have no operators; upstream's kernels use them.
    operators = [
        f"-U__CUDA_NO_{name}__"
        for name in ("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS", "BFLOAT16_CONVERSIONS")
    ]
    nvcc = [*nvcc_command(cuda_home, codes), "--use_fast_math", *operators, *common, *torch.flags]
    commands = {}
    for name in sources.KERNELS:  # the seed is for names that would else hold the number of nvcc's process
        commands[f"{name}.o"] = [*nvcc, f"-frandom-seed={name}", f"{sources.SOURCES}/{name}", "-o", f"{name}.o"]
    archs = f"-DFLASH_ATTN_HD32_ARCHS={','.join(codes)}"
    commands["dispatcher.o"] = [*gxx_command(cuda_home, torch), *common, archs, "dispatcher.cpp", "-o", "dispatcher.o"]
    return commands


def compile_library(root: Path, cuda_home: Path, torch: Torch, codes: list[str], jobs: int) -> bytes:
    """The linked library. `root` holds the unpacked and edited sources, and gets the objects."""
    (root / "dispatcher.cpp").write_bytes((HERE / "dispatcher.cpp").read_bytes())
    commands = compile_commands(root, cuda_home, torch, codes)
    compile_all(commands, root, jobs)
    run(link_command(LIBRARY, list(commands), cuda_home, torch), root)
    return (root / LIBRARY).read_bytes()


def build(arguments: argparse.Namespace) -> Path:
    """Everything in order; the finished wheel."""
    begin = time.monotonic()
    codes, reasons = code_archs(arguments.archs)
    print("\n".join(reasons), flush=True)
    sources.verify(arguments.sdist, arguments.sha256)
    torch = inspect_both(arguments.torch_python, arguments.cuda_home)
    version = f"{arguments.version}+hd32.{'.'.join(f'sm{code}' for code in codes)}"
    facts = {
        "VERSION": version,
        "ARCHS": codes,
        "TORCH": torch.release,
        "CUDA": torch.cuda,
        "SDIST_SHA256": arguments.sha256,
    }
    with build_folder("flash-attn-hd32") as root:
        sources.unpack(arguments.sdist, root)
        sources.apply(sources.EDITS, root)
        texts = sources.licences(root)
        library = compile_library(root, arguments.cuda_home, torch, codes, arguments.jobs)
    package = wheel.Package(
        "flash_attn",
        version,
        summary="FlashAttention-2 for head dimension 32 alone, built for the yolov12 image (unofficial)",
        licence="AGPL-3.0-or-later AND BSD-3-Clause",
        requires=[f"torch=={torch.release}"],
    )
    files = wheel.package_files(HERE / "package/flash_attn", facts, LIBRARY, library)
    made = wheel.pack(arguments.out, package, files, texts)
    print(
        f"{made.name}: library {len(library):,} bytes, wheel {made.stat().st_size:,} bytes, {time.monotonic() - begin:.0f} s"
    )
    return made


def main(argv: list[str] | None = None) -> int:
    """Parse, build, and turn a BuildError into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sdist", type=Path, required=True, help="upstream's source distribution")
    parser.add_argument("--sha256", required=True, help="its hash")
    parser.add_argument("--version", required=True, help="upstream's version")
    parser.add_argument("--archs", required=True, help='the GPU archs of the image, as "80 86 90"')
    parser.add_argument("--cuda-home", type=here, required=True, help="a CUDA toolkit, with bin/nvcc and lib64")
    parser.add_argument(
        "--torch-python", type=here, required=True, help="an interpreter that has the torch to build against"
    )
    parser.add_argument("--jobs", type=int, default=2, help="compilers at once; each needs up to 4.1 GiB")
    parser.add_argument("--out", type=Path, required=True, help="folder for the wheel")
    try:
        build(parser.parse_args(argv))
    except BuildError as error:
        print(f"flash-attn: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
