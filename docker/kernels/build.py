# SPDX-License-Identifier: AGPL-3.0-or-later
"""Build the `yolov12_kernels` wheel: this folder's CUDA kernels as torch ops, and the package that loads them.

    python3 build.py --archs "80 90" --cuda-home /opt/cuda --torch-python /opt/yolov12/bin/python --out /wheel

The wheel serves every Python that has the torch it was built against: the library registers torch ops and includes no Python header.
Exit code 2 with one sentence when something is not as it should be.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where `native` is

from native import wheel
from native.build import (
    BuildError,
    Torch,
    build_folder,
    compile_all,
    gxx_command,
    here,
    inspect_archs,
    inspect_both,
    link_command,
    nvcc_command,
    run,
)

sys.path.pop(0)  # beside `native` lies a folder called flash_attn, which would be found as the package of that name

HERE = Path(__file__).resolve().parent
VERSION = "1.7"
"""Of the ops: raised when their arguments or their meaning change. Not this repository's, so that a release builds no kernels anew."""
LIBRARY = "_kernels.so"
OF_BATCH_NORM = ("batch_norm_apply", "batch_norm_gradient", "batch_norm_statistics")
"""Kernels that have their ops in one source."""
KERNELS = (
    *("augment", *OF_BATCH_NORM, "depthwise", "detection_loss", "join", "stem"),
    *("attend", "decode", "fused_conv", "fused_depthwise", "letterbox", "suppress", "survive"),  # of inference
)
OPTIONS = {name: ["-fmad=false"] for name in ("augment", "letterbox", "suppress", "survive")}
"""Of nvcc, for some: they round each product, as torch's operations or OpenCV do, so that their answers are theirs."""
OPS = (*(f"{name}_ops" for name in KERNELS if name not in OF_BATCH_NORM), "batch_norm_act_ops")
HEADERS = (
    *("blocks.h", "device.h", "loads.h"),
    *("batch_norm_activation.cuh", "batch_norm_passes.cuh", "batch_norm_sums.cuh"),
    *("augment.h", "augment_layers.h", "augment_pixels.h"),
    *("batch_norm_act.h", "depthwise.h", "detection_loss.h", "join.h", "numbers.cuh", "tensors.h"),
    *("stem.h", "stem_floats.cuh", "stem_halves.cuh", "tensor_cores.cuh"),
    *("attend.h", "decode.h", "finish.cuh", "fused_conv.h", "fused_depthwise.h", "letterbox.h"),
    *("overlap.cuh", "pipeline.cuh", "pixel_tensors.h", "pixels.h", "sigmoid.cuh", "suppress.h", "survive.h"),
)
SOURCES = (*HEADERS, *(f"{name}.cu" for name in KERNELS), *(f"{name}.cpp" for name in OPS))
RUNS_CODE_FOR = {"89": "86"}
"""As in env/matrix.yaml: the one arch that has no code of its own, since torch has none either."""


def code_archs(archs: str, compilable: list[str]) -> list[str]:
    """The archs to compile for, in order, for the GPU archs that the image is for, as "80 89 90".

    Raises:
        BuildError: no arch, or one that is not among those that nvcc can compile for.
    """
    asked = archs.split()
    if unknown := [arch for arch in asked if arch not in compilable]:
        raise BuildError(f"ARCHS={archs!r}: {' and '.join(unknown)} not known; nvcc knows {' '.join(compilable)}")
    if not asked:
        raise BuildError(f"ARCHS={archs!r} names no GPU: choose from {' '.join(compilable)}")
    return sorted({RUNS_CODE_FOR.get(arch, arch) for arch in asked}, key=int)


def compile_commands(cuda_home: Path, torch: Torch, codes: list[str]) -> dict[str, list[str]]:
    """Object file -> the command that makes it, run where the sources are, so that no path of the machine gets into the objects."""
    nvcc = nvcc_command(cuda_home, codes)
    gxx = gxx_command(cuda_home, torch)
    # The seed is for names that would else hold the number of nvcc's process.
    kernels = {
        f"{name}.o": [*nvcc, *OPTIONS.get(name, ()), f"-frandom-seed={name}", f"{name}.cu", "-o", f"{name}.o"]
        for name in KERNELS
    }
    return kernels | {f"{name}.o": [*gxx, f"{name}.cpp", "-o", f"{name}.o"] for name in OPS}


def compile_library(root: Path, cuda_home: Path, torch: Torch, codes: list[str]) -> bytes:
    """The linked library; `root` gets the sources and the objects."""
    for name in SOURCES:
        shutil.copy(HERE / name, root)
    commands = compile_commands(cuda_home, torch, codes)
    compile_all(commands, root, jobs=len(os.sched_getaffinity(0)))  # more would only wait, with their memory
    run(link_command(LIBRARY, list(commands), cuda_home, torch), root)
    return (root / LIBRARY).read_bytes()


def build(arguments: argparse.Namespace) -> Path:
    """Everything in order; the finished wheel."""
    begin = time.monotonic()
    torch = inspect_both(arguments.torch_python, arguments.cuda_home)
    codes = code_archs(arguments.archs, inspect_archs(arguments.cuda_home))
    with build_folder("yolov12-kernels") as root:
        library = compile_library(root, arguments.cuda_home, torch, codes)
    version = f"{VERSION}+{'.'.join(f'sm{code}' for code in codes)}"
    facts: dict[str, object] = {"VERSION": version, "ARCHS": codes, "TORCH": torch.release, "CUDA": torch.cuda}
    package = wheel.Package(
        "yolov12_kernels",
        version,
        summary="Compiled GPU kernels of the yolov12 image",
        licence="AGPL-3.0-or-later",
        requires=[f"torch=={torch.release}"],
    )
    files = wheel.package_files(HERE / "package/yolov12_kernels", facts, LIBRARY, library)
    made = wheel.pack(arguments.out, package, files, licences={})
    size = made.stat().st_size
    print(f"{made.name}: library {len(library):,} bytes, wheel {size:,} bytes, {time.monotonic() - begin:.0f} s")
    return made


def main(argv: list[str] | None = None) -> int:
    """Parse, build, and turn a BuildError into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--archs", required=True, help='the GPU archs of the image, as "80 86 90"')
    parser.add_argument("--cuda-home", type=here, required=True, help="a CUDA toolkit, with bin/nvcc and lib64")
    parser.add_argument(
        "--torch-python", type=here, required=True, help="an interpreter that has the torch to build against"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the wheel")
    try:
        build(parser.parse_args(argv))
    except BuildError as error:
        print(f"kernels: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
