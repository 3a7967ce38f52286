# SPDX-License-Identifier: AGPL-3.0-or-later
"""What AOTInductor compiles with: a C++ compiler, and for a GPU the headers of CUDA, looked for before anything is traced.

torch looks for a CUDA toolkit (torch/utils/cpp_extension.py, `_find_cuda_home`), and includes `CUDA_HOME/include`. Of all that is in one, generated
code needs no more than headers. NVIDIA's wheels beside torch have those too, once two are there that torch does not ask for: `nvidia-cuda-crt`, whose
folder crt/ all others include, and `nvidia-cuda-cccl`, for the half-precision types. The locks of the train image have both (env/matrix.yaml).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from yolov12 import pins
from yolov12.errors import UserError
from yolov12.export import machine
from yolov12.log import say, without
from yolov12.seams import replaced

HEADERS = ("cuda.h", "cuda_runtime_api.h", "crt/host_defines.h", "nv/target")
"""What torch's headers for generated code come to (aoti_runtime/device_utils.h, cuda_fp16.h), one of each package that has some."""
WHEELS = ("nvidia-cuda-crt", "nvidia-cuda-cccl")
"""What a pip install of torch does not bring."""
OPTIONS = {"aot_inductor.package": True, "cpp.dynamic_threads": True, "cpp.threads": 8}
"""Options of torch/_inductor/config.py. By itself torch writes its number of threads into code for the CPU, which ultralytics has set to 1 by then
(__init__.py:12) and sets anew for each prediction, to 8 at most (utils/__init__.py, `NUM_THREADS`). So the code asks for it when it runs, and is
laid out for 8 wherever it is made.
"""


def require_compiler(device: torch.device) -> None:
    """Look for what a package for `device` is compiled with.

    Raises:
        UserError: it is not here.
    """
    compiler = machine.cxx()
    if shutil.which(compiler) is None:
        raise UserError(
            f"format=aoti compiles C++, and {compiler} is not here: install g++ (the train image has it), or name yours with CXX="
        )
    if device.type != "cuda" or cuda_home() is not None:
        return
    looked = " and ".join(str(folder) for folder in _places()) or "CUDA_HOME, which is not set"
    wheels = " ".join(f"{name}=={pins.PACKAGES[name]}" for name in WHEELS)
    main_line = torch.version.cuda == pins.PACKAGES["cuda-toolkit"].rpartition(".")[0]
    raise UserError(
        f"format=aoti for a GPU compiles against CUDA's headers, and not all of them are here (looked in {looked}): "
        + (f"type pip install {wheels}, or " if main_line else "")
        + f"name the folder of a CUDA toolkit {torch.version.cuda} with CUDA_HOME=, or type device=cpu or format=onnx"
    )


def cuda_home() -> Path | None:
    """The folder whose headers are included: the first that is whole of one that was named, the wheels beside torch, what torch finds."""
    return next((home for home in _places() if all(_has(home, header) for header in HEADERS)), None)


def _places() -> list[Path]:
    """The wheels before what nobody named: they are of torch's own version."""
    from torch.utils import cpp_extension  # imports much

    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    texts = filter(None, (named, *map(str, wheels_folders()), cpp_extension.CUDA_HOME))
    return [Path(text) for text in dict.fromkeys(texts)]


def wheels_folders() -> list[Path]:
    """Where NVIDIA's wheels for torch's CUDA put what a toolkit has, nvidia/cu13; from CUDA 13 on they share a folder."""
    found = importlib.util.find_spec("nvidia")
    major = str(torch.version.cuda).partition(".")[0]
    places = found.submodule_search_locations if found else None
    return [place for folder in places or () if (place := Path(folder) / f"cu{major}").is_dir()]


def include_folders(home: Path) -> list[Path]:
    """Those for the compiler: in a toolkit CCCL has a folder of its own."""
    return [folder for folder in (home / "include", home / "include/cccl") if folder.is_dir()]


def _has(home: Path, header: str) -> bool:
    return any((folder / header).is_file() for folder in include_folders(home))


@contextmanager
def cuda_in_reach(folder: Path) -> Iterator[None]:
    """Let torch and g++ find CUDA's headers, CCCL's among them, and the driver's library under the linker's name.

    Args:
        folder: for the link to the library.
    """
    from torch.utils import cpp_extension

    home = cuda_home()
    assert home is not None, "require_compiler comes first"
    say(f"aoti: CUDA's headers are those in {home}")
    before = {name: os.environ.get(name) for name in ("CPATH", "LIBRARY_PATH")}
    driver = next((place for place in _library_folders() if (place / "libcuda.so.1").exists()), None)
    if driver is not None:
        (folder / "libcuda.so").symlink_to(driver / "libcuda.so.1")
    for name, places in (("CPATH", include_folders(home)), ("LIBRARY_PATH", [folder])):
        os.environ[name] = os.pathsep.join(filter(None, (before[name], *map(str, places))))
    try:
        with replaced(cpp_extension, CUDA_HOME=str(home)):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def no_gpu_meant() -> AbstractContextManager[None]:
    """Within it torch does not warn of a CUDA toolkit without a GPU, for which it looks whatever it compiles for (utils/cpp_extension.py:140)."""
    return without("No CUDA runtime is found, using CUDA_HOME=", "torch.utils.cpp_extension")


def _library_folders() -> list[Path]:
    """Where a driver's libraries lie: as Triton finds them, which has the same need."""
    from triton.backends.nvidia.driver import libcuda_dirs

    return [Path(place) for place in libcuda_dirs()]
