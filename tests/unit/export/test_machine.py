# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the cache's keys hold of a machine: the driver by stand-ins of its library and its file, the compiler as a program that answers."""

import platform
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.unit.export.trt_stand_in import TensorRT
from yolov12 import driver
from yolov12.export import aoti_file, aoti_key, builder, cache, engine, machine, request


@pytest.fixture
def gpu(monkeypatch):
    """As if torch saw a GPU under a driver of CUDA 13.0."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: 13000, raising=False)
    monkeypatch.setattr(builder, "gpu_here", lambda: "sm_90 NVIDIA H100")


@pytest.fixture
def install(monkeypatch, gpu, tmp_path):
    """Sets the driver's version by NVML; None: it does not answer."""
    monkeypatch.setattr(driver, "KERNEL_MODULE", tmp_path / "version")

    class NVMLError(Exception):
        pass

    def put(version):
        def asked():
            if version is None:
                raise NVMLError("Driver Not Loaded")
            return version

        nvml = SimpleNamespace(NVMLError=NVMLError, nvmlInit=lambda: None, nvmlSystemGetDriverVersion=asked)
        monkeypatch.setitem(sys.modules, "pynvml", nvml)

    return put


@pytest.mark.parametrize("version", ["580.95.05", b"580.95.05"])
def test_the_drivers_version_is_nvidias_own(install, version):
    install(version)
    assert (machine.driver_version(), machine.cuda_version()) == ("580.95.05", "13.0")


def test_where_nvml_does_not_answer_the_kernel_module_does(install):
    install(None)
    assert machine.driver_version() == ""
    driver.KERNEL_MODULE.write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  575.57.08  Sat May 24\nGCC version: gcc version 13.3.0"
    )
    assert machine.driver_version() == "575.57.08"


def test_without_a_gpu_there_is_none(install, monkeypatch):
    install("580.95.05")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (machine.driver_version(), machine.cuda_version()) == ("", "")


def test_an_engine_of_another_driver_is_another_entry_though_both_speak_one_cuda(install):
    asked, names = request.of({"format": "engine"}), set()
    for version in ("580.65.06", "580.95.05"):
        install(version)
        maker = engine._maker(TensorRT(), ())
        assert (maker.driver, maker.cuda) == (version, "13.0")
        names.add(cache.name_of(engine._key(b"graph", None, maker, asked, ())))
    assert len(names) == 2


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """A compiler that says its name in the C locale alone, in `CXX`."""
    program = tmp_path / "my-g++"
    program.write_text('#!/bin/sh\n[ "$LC_ALL" = C ] && printf "g++ 12.2.0\\nCopyright\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("CXX", str(program))


def test_the_compiler_tells_its_version(compiler, monkeypatch):
    assert machine.compiler_version() == "g++ 12.2.0"
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert machine.compiler_version() == ""


def test_a_package_for_the_cpu_depends_on_the_compiler_and_not_on_a_driver(compiler, install):
    install("580.95.05")
    found = aoti_key.of_machine(aoti_file.origin_here(torch.device("cpu")))
    assert found == {"compiler": "g++ 12.2.0", "driver": "", "cuda": ""}


def test_a_package_for_a_gpu_depends_on_compiler_and_driver(compiler, install):
    install("580.95.05")
    found = aoti_key.of_machine(aoti_file.Origin("2.11.0", "sm_90", "NVIDIA H100", "x86_64", ()))
    assert found == {"compiler": "g++ 12.2.0", "driver": "580.95.05", "cuda": "13.0"}


@pytest.mark.parametrize(
    ("told", "name"),
    [
        (
            "processor : 0\nmodel name\t: Some Xeon @ 2.60GHz\nmodel name\t: Some Xeon @ 2.60GHz\n",
            " Some Xeon @ 2.60GHz",
        ),
        ("processor\t: 0\nCPU part\t: 0xd40\n", " 0xd40"),
        ("", ""),
    ],
)
def test_the_processor_is_named_as_the_kernel_does(monkeypatch, tmp_path, told, name):
    (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.processor() == platform.machine() + name
