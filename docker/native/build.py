# SPDX-License-Identifier: AGPL-3.0-or-later
"""Compile CUDA and C++ sources into one library of torch ops, without Python's headers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class BuildError(Exception):
    """What went wrong, in one sentence for the user."""


@dataclass(frozen=True)
class Torch:
    """What the library is compiled and linked against."""

    folder: Path
    version: str
    cuda: str
    cxx11_abi: bool

    @property
    def release(self) -> str:
        """The version without what it was built for: "2.11.0+cu130" -> "2.11.0"."""
        return self.version.split("+")[0]

    @property
    def flags(self) -> list[str]:
        """Compiler options by which its headers are found, and read as it was compiled itself."""
        folders = [self.folder / "include", self.folder / "include/torch/csrc/api/include"]
        found = [argument for folder in folders for argument in ("-isystem", str(folder))]
        return [f"-D_GLIBCXX_USE_CXX11_ABI={int(self.cxx11_abi)}", *found]


def here(text: str) -> Path:
    """A path of the command line, seen from where it was typed: what it leads to is used in other folders. A link stays one: a venv's python is."""
    return Path(text).absolute()


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
    release = re.search(r"release (\d+\.\d+)", _ask_nvcc(cuda_home, "--version"))
    if release is None:
        raise BuildError(f"--cuda-home {cuda_home}: `nvcc --version` names no release")
    return release[1]


def inspect_archs(cuda_home: Path) -> list[str]:
    """The archs that nvcc can compile for: "75", "80", ..."""
    return re.findall(r"^sm_(\d+)$", _ask_nvcc(cuda_home, "--list-gpu-code"), re.MULTILINE)


def _ask_nvcc(cuda_home: Path, question: str) -> str:
    command = [str(cuda_home / "bin/nvcc"), question]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise BuildError(f"--cuda-home {cuda_home}: bin/nvcc does not run: {error.strerror}") from error


def inspect_both(torch_python: Path, cuda_home: Path) -> Torch:
    """The torch to build against, of the same CUDA as nvcc, or a BuildError."""
    torch, cuda = inspect_torch(torch_python), inspect_nvcc(cuda_home)
    if cuda != torch.cuda:
        raise BuildError(
            f"nvcc is of CUDA {cuda}, and torch {torch.version} of CUDA {torch.cuda}: they must be the same"
        )
    return torch


def nvcc_command(cuda_home: Path, codes: list[str]) -> list[str]:
    """The compiler of .cu files and the options that all of them have: code for these archs, and no PTX."""
    return [
        *(str(cuda_home / "bin/nvcc"), "-c", "-O3", "-std=c++17"),
        *("--expt-relaxed-constexpr", "--expt-extended-lambda", "-Xcompiler", "-fPIC,-fvisibility=hidden"),
        *(f"-gencode=arch=compute_{code},code=sm_{code}" for code in codes),
    ]


def gxx_command(cuda_home: Path, torch: Torch) -> list[str]:
    """The compiler of .cpp files and the options that all of them have."""
    options = ["g++", "-c", "-O2", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall"]
    # Messages of asserts in torch's headers name the file: without where this machine has it.
    return [*options, f"-fmacro-prefix-map={torch.folder}=torch", "-isystem", str(cuda_home / "include"), *torch.flags]


def link_command(library: str, objects: list[str], cuda_home: Path, torch: Torch) -> list[str]:
    """The library without symbols that nobody looks up. libcudart is the one that torch has loaded by then: no search path is set."""
    libraries = ["-lc10", "-lc10_cuda", "-ltorch_cpu", "-ltorch_cuda", "-lcudart"]
    return [
        *("g++", "-shared", "-o", library, *sorted(objects), f"-L{torch.folder / 'lib'}", f"-L{cuda_home / 'lib64'}"),
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


def compile_all(commands: dict[str, list[str]], root: Path, jobs: int) -> None:
    """Run the command of each object file in `root`, `jobs` at a time, and say how long each took."""
    with ThreadPoolExecutor(jobs) as pool:
        for name, took_s in zip(commands, pool.map(lambda command: run(command, root), commands.values()), strict=True):
            print(f"  {took_s:6.1f} s  {name}", flush=True)


@contextmanager
def build_folder(name: str) -> Iterator[Path]:
    """The same folder for every build, since nvcc names symbols after it too; gone afterwards."""
    root = Path(tempfile.gettempdir()) / name
    try:
        root.mkdir()
    except FileExistsError as error:
        raise BuildError(f"{root} is there: another build runs, or one was killed and it can be removed") from error
    try:
        yield root
    finally:
        shutil.rmtree(root)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no message"
