# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a package is compiled with is looked for before anything is traced; and that CUDA's headers, as the lock brings them, are enough."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from yolov12.errors import UserError
from yolov12.export import aoti_toolkit

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_without_a_compiler_it_says_what_to_install(monkeypatch, model):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="no-such-compiler is not here: install"):
        model.export(format="aoti", imgsz=64)


@pytest.fixture
def unnamed(monkeypatch):
    """As on a machine where nobody named a toolkit."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)


def laid(home, *headers):
    for name in headers:
        (home / "include" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "include" / name).touch()
    return home


@pytest.fixture
def toolkit(unnamed, tmp_path, monkeypatch) -> Path:
    """A CUDA toolkit, as far as it is looked at, and no wheels."""
    home = laid(tmp_path / "cuda", "cuda.h", "cuda_runtime_api.h", "crt/host_defines.h", "cccl/nv/target")
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", str(home))
    monkeypatch.setattr(aoti_toolkit, "wheels_folders", lambda: [])
    return home


@pytest.fixture
def wheels(unnamed, tmp_path, monkeypatch) -> Path:
    """NVIDIA's wheels beside torch with the two that the lock adds, which have CCCL's target in two places."""
    home = laid(
        tmp_path / "nvidia/cu13", "cuda.h", "cuda_runtime_api.h", "crt/host_defines.h", "nv/target", "cccl/nv/target"
    )
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    monkeypatch.setattr(aoti_toolkit, "wheels_folders", lambda: [home])
    return home


@pytest.mark.parametrize(("within", "times"), [("aoti_toolkit.no_gpu_meant()", 0), ("nullcontext()", 1)])
def test_torchs_warning_of_a_toolkit_without_a_gpu_is_not_said_where_none_is_meant(tmp_path, within, times):
    """In a process of its own, since torch looks once; as it says it outside, so that a change of its words is seen."""
    code = f"from contextlib import nullcontext\nfrom yolov12.export import aoti_toolkit\nwith {within}:\n    "
    code += "from torch.utils import cpp_extension\ncpp_extension.logger.warning('No compiler')"
    here = {**os.environ, "CUDA_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=here)
    assert child.stderr.count("No CUDA runtime is found") == times
    assert child.stderr.count("No compiler") == 1


@pytest.mark.parametrize("missing", ["cuda.h", "cuda_runtime_api.h", "crt/host_defines.h", "cccl/nv/target"])
def test_for_a_gpu_every_header_is_needed(toolkit, missing):
    aoti_toolkit.require_compiler(GPU)
    (toolkit / "include" / missing).unlink()
    with pytest.raises(UserError, match=r"not all of them are here \(looked in .*/cuda\).*CUDA_HOME=.*device=cpu"):
        aoti_toolkit.require_compiler(GPU)
    aoti_toolkit.require_compiler(CPU)


def test_where_nothing_is_it_says_what_to_type_for_torchs_cuda(unnamed, monkeypatch):
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    monkeypatch.setattr(aoti_toolkit, "wheels_folders", lambda: [])
    monkeypatch.setattr("torch.version.cuda", "13.0")
    pip = r"CUDA_HOME, which is not set\): type pip install nvidia-cuda-crt==13\.0\.[0-9]+ nvidia-cuda-cccl==13\.0\.[0-9]+, or"
    with pytest.raises(UserError, match=pip):
        aoti_toolkit.require_compiler(GPU)
    monkeypatch.setattr("torch.version.cuda", "12.8")
    with pytest.raises(UserError, match=r"not set\): name the folder of a CUDA toolkit 12\.8 with CUDA_HOME="):
        aoti_toolkit.require_compiler(GPU)


def test_a_toolkit_that_was_named_goes_first_then_the_wheels_then_what_torch_finds(wheels, tmp_path, monkeypatch):
    aoti_toolkit.require_compiler(GPU)
    other = laid(tmp_path / "toolkit", *aoti_toolkit.HEADERS)
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", str(other))
    assert aoti_toolkit.cuda_home() == wheels, "they are of torch's own version"
    monkeypatch.setenv("CUDA_HOME", str(other))
    assert aoti_toolkit.cuda_home() == other
    (other / "include/crt/host_defines.h").unlink()
    assert aoti_toolkit.cuda_home() == wheels
    monkeypatch.setattr(aoti_toolkit, "wheels_folders", lambda: [])
    assert aoti_toolkit.cuda_home() is None


def test_the_headers_and_the_driver_are_in_reach_while_it_compiles(wheels, tmp_path, monkeypatch, capsys):
    from torch.utils import cpp_extension

    driver = tmp_path / "driver"
    driver.mkdir()
    (driver / "libcuda.so.1").touch()
    monkeypatch.setattr(aoti_toolkit, "_library_folders", lambda: [tmp_path, driver])
    monkeypatch.setenv("CPATH", "/mine")
    monkeypatch.delenv("LIBRARY_PATH", raising=False)
    with aoti_toolkit.cuda_in_reach(tmp_path):
        assert cpp_extension.include_paths("cuda", False) == [f"{wheels}/include"]
        assert os.environ["CPATH"] == f"/mine:{wheels}/include:{wheels}/include/cccl"
        assert (Path(os.environ["LIBRARY_PATH"]) / "libcuda.so").resolve() == driver / "libcuda.so.1"
    assert cpp_extension.CUDA_HOME is None
    assert os.environ["CPATH"] == "/mine"
    assert "LIBRARY_PATH" not in os.environ
    assert f"aoti: CUDA's headers are those in {wheels}" in capsys.readouterr().err


def test_what_inductor_writes_for_a_gpu_is_compiled_and_linked(tmp_path, monkeypatch):
    """The C++ around the kernels, by torch's own command, with a library that stands for the driver's. The kernels are Triton's."""
    if aoti_toolkit.cuda_home() is None:
        pytest.skip("no CUDA headers: the lock has them, make setup installs it")
    from torch._inductor import cpp_builder

    driver, links = tmp_path / "driver", tmp_path / "links"
    driver.mkdir(), links.mkdir()
    (driver / "cuda.cpp").write_text('extern "C" int cuInit(unsigned) { return 0; }')
    stand_in = f"g++ -shared -fPIC -Wl,-soname,libcuda.so.1 -o {driver}/libcuda.so.1 {driver}/cuda.cpp"
    subprocess.run(stand_in.split(), check=True)
    headers = ("aoti_include/cuda.h", "aoti_runtime/interface.h", "aoti_runtime/model_container.h")
    source = tmp_path / "wrapper.cpp"
    source.write_text(
        "".join(f"#include <torch/csrc/inductor/{name}>\n" for name in headers) + "int f() { return cuInit(0); }"
    )
    monkeypatch.setattr(aoti_toolkit, "_library_folders", lambda: [driver])
    with aoti_toolkit.cuda_in_reach(links):
        options = cpp_builder.CppTorchDeviceOptions(device_type="cuda", aot_mode=True)
        builder = cpp_builder.CppBuilder("wrapper", str(source), options, str(tmp_path))
        done = subprocess.run(builder.get_command_line(), shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(builder.get_target_file_path()).is_file()
