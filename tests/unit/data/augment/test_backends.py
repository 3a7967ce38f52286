# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import types

import pytest
import torch

from yolov12 import compiled
from yolov12.data.augment import backends, cuda

NO_WHEEL = "no CUDA kernels, since the package yolov12_kernels is not installed"


def test_on_the_cpu_torchs_operations_run_and_nothing_is_said(capsys):
    assert backends.choose(torch.device("cpu")) is backends.PLAIN
    assert capsys.readouterr().err == ""


@pytest.fixture
def triton_alone(monkeypatch):
    """Triton and a C compiler, without the wheel."""
    monkeypatch.setitem(sys.modules, "yolov12_kernels", None)  # makes the import fail
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/gcc")


@pytest.fixture
def all_there(triton_alone, monkeypatch):
    """And the wheel, with code for sm_90."""
    package = types.ModuleType("yolov12_kernels")
    package.__version__ = f"{compiled.OPS}+sm90"
    package.why_not = lambda capability: None if capability == (9, 0) else "there is no code"  # type: ignore[attr-defined]  # made up
    package.load = lambda: None  # type: ignore[attr-defined]  # made up
    monkeypatch.setitem(sys.modules, "yolov12_kernels", package)


def test_a_gpu_that_the_wheel_has_code_for_is_served_by_it(all_there, monkeypatch, capsys):
    assert backends.decide((9, 0)) == ("CUDA kernels", "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert backends._choose.__wrapped__(torch.device("cuda")) == backends.Backend(cuda.warp, cuda.recolour)
    assert capsys.readouterr().err == "augmentation: CUDA kernels\n"


def test_another_gpu_is_served_by_triton_and_told_why(all_there):
    assert backends.decide((8, 0)) == ("Triton kernels", "no CUDA kernels, since there is no code")


def test_an_older_wheel_is_not_called(all_there, monkeypatch):
    monkeypatch.setattr(sys.modules["yolov12_kernels"], "__version__", "1.2+sm90")
    reason = f"no CUDA kernels, since yolov12_kernels 1.2 has other ops than {compiled.OPS}: build it again"
    assert backends.decide((9, 0)) == ("Triton kernels", reason)


def test_without_the_wheel_a_gpu_from_turing_on_is_served_by_triton(triton_alone):
    assert backends.decide((7, 5)) == backends.decide((12, 0)) == ("Triton kernels", NO_WHEEL)


def test_an_older_gpu_is_not(triton_alone):
    assert backends.decide((6, 1)) == (
        "torch's operations",
        f"{NO_WHEEL}; no Triton kernels, since the GPU's compute capability 6.1 is below 7.5",
    )


def test_without_triton_or_a_compiler_the_reason_says_so(triton_alone, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    name, reason = backends.decide((9, 0))
    assert name == "torch's operations"
    assert reason.startswith(f"{NO_WHEEL}; ")
    assert "install gcc" in reason
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "triton is not installed" in backends.decide((9, 0))[1]


def test_the_setting_for_our_kernels_holds_for_all_of_these(all_there, monkeypatch):
    monkeypatch.setenv("YOLOV12_KERNELS", "0")
    assert backends.decide((9, 0)) == ("torch's operations", "YOLOV12_KERNELS=0")


@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_what_triton_compiled_is_kept_with_our_other_caches_unless_the_user_says_where(
    triton_alone, monkeypatch, tmp_path, chosen
):
    monkeypatch.setenv("YOLOV12_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", chosen or "")  # so that it is put back afterwards
    if chosen is None:
        monkeypatch.delenv("TRITON_CACHE_DIR")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    backends._choose.__wrapped__(torch.device("cuda"))
    assert os.environ["TRITON_CACHE_DIR"] == (chosen or str(tmp_path / "triton"))
