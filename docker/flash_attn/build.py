# SPDX-License-Identifier: AGPL-3.0-or-later
"""Build the `flash_attn` wheel for head dimension 32 alone, from the pinned upstream sdist.

    python3 build.py --sdist flash_attn.tar.gz --sha256 HEX --version 1.2.3 --archs "80 90" \
        --cuda-home /opt/cuda --torch-python /opt/yolov12/bin/python --jobs 2 --out /wheel

The wheel serves every Python that has the torch it was built against: the library registers torch ops and includes no Python header.
Exit code 2 with one sentence when something is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hd32_sources as sources
import hd32_wheel as wheel
from hd32_sources import BuildError

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


@dataclass(frozen=True)
class Torch:
    """What the library is compiled and linked against."""

    folder: Path
    version: str
    cuda: str
    cxx11_abi: bool

    @property
    def includes(self) -> list[Path]:
        """Folders of torch's headers."""
        return [self.folder / "include", self.folder / "include/torch/csrc/api/include"]


def inspect_torch(python: Path) -> Torch:
    """Ask the torch of another interpreter."""
    program = (
        "import json, os, torch; print(json.dumps([os.path.dirname(torch.__file__), torch.__version__, torch.version.cuda,"
        " torch.compiled_with_cxx11_abi()]))"
    )
    try:
        done = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=False, cwd="/")
    except OSError as error:
        raise BuildError(f"--torch-python {python} does not run: {error.strerror}") from error
    if done.returncode:
        raise BuildError(f"--torch-python {python} can not import torch: {_last_line(done.stderr)}")
    folder, version, cuda, abi = json.loads(done.stdout)
    if cuda is None:
        raise BuildError(f"--torch-python {python} has torch {version}, which is built without CUDA")
    return Torch(Path(folder), version, cuda, abi)


def inspect_nvcc(cuda_home: Path) -> str:
    """The release of nvcc, as "13.0"."""
    nvcc = cuda_home / "bin/nvcc"
    try:
        done = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"--cuda-home {cuda_home}: bin/nvcc does not run: {error.strerror}") from error
    release = re.search(r"release (\d+\.\d+)", done.stdout)
    if release is None:
        raise BuildError(f"--cuda-home {cuda_home}: `nvcc --version` names no release")
    return release[1]


def compile_commands(root: Path, cuda_home: Path, torch: Torch, codes: list[str]) -> dict[str, list[str]]:
    """Object file -> the command that makes it, run in `root`. Paths into it are relative, so that they do not get into the objects."""
    defines = [f"-DFLASHATTENTION_DISABLE_{name}" for name in sources.DISABLED]
    defines.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.cxx11_abi)}")
    ours = [f"-I{sources.SOURCES}", f"-I{sources.CUTLASS}"]
    theirs = [argument for folder in torch.includes for argument in ("-isystem", str(folder))]
    # torch's headers expect that fp16 and bf16 have no operators; upstream's kernels use them.
    operators = [
        f"-U__CUDA_NO_{name}__"
        for name in ("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS", "BFLOAT16_CONVERSIONS")
    ]
    nvcc = [
        *(str(cuda_home / "bin/nvcc"), "-c", "-O3", "-std=c++17", "--use_fast_math"),
        *("--expt-relaxed-constexpr", "--expt-extended-lambda", "-Xcompiler", "-fPIC,-fvisibility=hidden"),
        *(f"-gencode=arch=compute_{code},code=sm_{code}" for code in codes),
        *(*operators, *defines, *ours, *theirs),
    ]
    host = ["g++", "-c", "-O2", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", *defines, *ours, *theirs]
    host.append(f"-DFLASH_ATTN_HD32_ARCHS={','.join(codes)}")
    commands = {}
    for name in sources.KERNELS:  # the seed is for names that would else hold the number of nvcc's process
        commands[f"{name}.o"] = [*nvcc, f"-frandom-seed={name}", f"{sources.SOURCES}/{name}", "-o", f"{name}.o"]
    commands["dispatcher.o"] = [*host, "-isystem", str(cuda_home / "include"), "dispatcher.cpp", "-o", "dispatcher.o"]
    return commands


def link_command(objects: list[str], cuda_home: Path, torch: Torch) -> list[str]:
    """The library without symbols that nobody looks up. libcudart is the one that torch has loaded by then: no search path is set."""
    libraries = ["-lc10", "-lc10_cuda", "-ltorch_cpu", "-ltorch_cuda", "-lcudart"]
    return [
        *("g++", "-shared", "-o", LIBRARY, *sorted(objects), f"-L{torch.folder / 'lib'}", f"-L{cuda_home / 'lib64'}"),
        *("-Wl,--no-as-needed", *libraries, "-Wl,-z,now", "-Wl,-z,relro", "-Wl,--strip-all", "-Wl,--build-id=none"),
    ]


def run(command: list[str], root: Path) -> float:
    """Run one command in `root`, with its temporary files there; seconds it took. BuildError with the compiler's first error."""
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=root, capture_output=True, text=True, check=False, env=os.environ | {"TMPDIR": str(root)}
        )
    except OSError as error:
        raise BuildError(f"{command[0]} does not run: {error.strerror}") from error
    if done.returncode:
        sys.stderr.write(done.stderr[-20000:])
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [_last_line(done.stderr)]
        raise BuildError(f"{Path(command[0]).name} failed on {command[command.index('-o') + 1]}: {errors[0].strip()}")
    return time.monotonic() - begin


def compile_library(root: Path, cuda_home: Path, torch: Torch, codes: list[str], jobs: int) -> bytes:
    """The linked library. `root` holds the unpacked and edited sources, and gets the objects."""
    (root / "dispatcher.cpp").write_bytes((HERE / "dispatcher.cpp").read_bytes())
    commands = compile_commands(root, cuda_home, torch, codes)
    with ThreadPoolExecutor(jobs) as pool:
        for name, took_s in zip(commands, pool.map(lambda command: run(command, root), commands.values()), strict=True):
            print(f"  {took_s:6.1f} s  {name}", flush=True)
    run(link_command(list(commands), cuda_home, torch), root)
    return (root / LIBRARY).read_bytes()


def package_files(library: bytes, facts: dict[str, object]) -> dict[str, bytes]:
    """Path in site-packages -> content: the Python package of this folder, the library, and what the package knows of its build."""
    files = {
        f"flash_attn/{file.name}": file.read_bytes() for file in sorted((HERE / "package/flash_attn").glob("*.py"))
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in facts.items()]
    text = "\n".join(["# SPDX-License-Identifier: AGPL-3.0-or-later", "# Written by the build.", *lines]) + "\n"
    return files | {"flash_attn/_build.py": text.encode(), f"flash_attn/{LIBRARY}": library}


@contextmanager
def build_folder() -> Iterator[Path]:
    """The same folder for every build, since nvcc names symbols after it too; gone afterwards."""
    root = Path(tempfile.gettempdir()) / "flash-attn-hd32"
    try:
        root.mkdir()
    except FileExistsError as error:
        raise BuildError(f"{root} is there: another build runs, or one was killed and it can be removed") from error
    try:
        yield root
    finally:
        shutil.rmtree(root)


def build(arguments: argparse.Namespace) -> Path:
    """Everything in order; the finished wheel."""
    begin = time.monotonic()
    codes, reasons = code_archs(arguments.archs)
    print("\n".join(reasons), flush=True)
    sources.verify(arguments.sdist, arguments.sha256)
    torch, cuda = inspect_torch(arguments.torch_python), inspect_nvcc(arguments.cuda_home)
    if cuda != torch.cuda:
        raise BuildError(
            f"nvcc is of CUDA {cuda}, and torch {torch.version} of CUDA {torch.cuda}: they must be the same"
        )

    version = f"{arguments.version}+hd32.{'.'.join(f'sm{code}' for code in codes)}"
    torch_release = torch.version.split("+")[0]
    facts = {"VERSION": version, "ARCHS": codes, "TORCH": torch_release, "CUDA": cuda, "SDIST_SHA256": arguments.sha256}
    with build_folder() as root:
        sources.unpack(arguments.sdist, root)
        sources.apply(sources.EDITS, root)
        texts = sources.licences(root)
        library = compile_library(root, arguments.cuda_home, torch, codes, arguments.jobs)
    made = wheel.pack(
        arguments.out,
        version,
        platform=sysconfig.get_platform().replace("-", "_").replace(".", "_"),
        requires=[f"torch=={torch_release}"],
        files=package_files(library, facts),
        licences=texts,
        epoch_s=int(os.environ.get("SOURCE_DATE_EPOCH", wheel.EPOCH)),
    )
    print(
        f"{made.name}: library {len(library):,} bytes, wheel {made.stat().st_size:,} bytes, {time.monotonic() - begin:.0f} s"
    )
    return made


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no message"


def main(argv: list[str] | None = None) -> int:
    """Parse, build, and turn a BuildError into one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sdist", type=Path, required=True, help="upstream's source distribution")
    parser.add_argument("--sha256", required=True, help="its hash")
    parser.add_argument("--version", required=True, help="upstream's version")
    parser.add_argument("--archs", required=True, help='the GPU archs of the image, as "80 86 90"')
    parser.add_argument("--cuda-home", type=Path, required=True, help="a CUDA toolkit, with bin/nvcc and lib64")
    parser.add_argument(
        "--torch-python", type=Path, required=True, help="an interpreter that has the torch to build against"
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
