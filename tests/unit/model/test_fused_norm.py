# SPDX-License-Identifier: AGPL-3.0-or-later
"""Batch norm with activation: which implementation serves a tensor, and torch's against the modules. Kernels: tests/gpu/test_fused.py."""

from __future__ import annotations

import copy
import sys
import types
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from yolov12 import compiled
from yolov12.model.fused import norm

H100, T4, ANOTHER_H100 = torch.device("cuda", 0), torch.device("cuda", 1), torch.device("cuda", 2)
NO_CODE = "there is code for sm_80, sm_90, and this GPU is sm_75"


@pytest.fixture(autouse=True)
def gpus(monkeypatch) -> Iterator[None]:
    """Three GPUs that nobody has asked about yet."""
    capabilities = {H100: (9, 0), T4: (7, 5), ANOTHER_H100: (9, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    forget()
    yield
    forget()


def forget() -> None:
    norm.kernels_missing.cache_clear()
    norm._missing_on.cache_clear()


@pytest.fixture
def installed(monkeypatch) -> Callable[[str | None], list[str]]:
    """Put a package in reach that has no code for the T4 and answers `load` as told; returns the calls of it."""

    def install(load: str | None = None, ops: str = compiled.OPS) -> list[str]:
        calls: list[str] = []
        package = types.ModuleType("yolov12_kernels")
        package.__version__ = f"{ops}+sm80.sm90"
        package.why_not = lambda capability: NO_CODE if capability == (7, 5) else None  # type: ignore[attr-defined]  # made up
        package.load = lambda: calls.append("load") or load  # type: ignore[attr-defined]  # made up
        monkeypatch.setitem(sys.modules, "yolov12_kernels", package)
        return calls

    return install


def test_a_gpu_that_there_is_code_for_is_served_and_nothing_is_said(installed, capsys):
    calls = installed()
    assert [norm.kernels_missing(H100) for _ in range(3)] == [None] * 3
    assert (calls, capsys.readouterr().err) == (["load"], "")


def test_a_gpu_without_code_is_told_so_once_while_others_are_served(installed, capsys):
    installed()
    assert [norm.kernels_missing(T4) for _ in range(3)] == [NO_CODE] * 3
    assert norm.kernels_missing(H100) is None
    assert (
        capsys.readouterr().err
        == f"kernels: torch's operations run for batch norm, the stem, depthwise convolutions and the loss, without our kernels: {NO_CODE}\n"
    )


def test_a_library_that_does_not_load_is_said_once_for_all_gpus_of_a_kind(installed, capsys):
    installed(load="built against torch 1.0")
    assert norm.kernels_missing(H100) == norm.kernels_missing(ANOTHER_H100) == "built against torch 1.0"
    assert capsys.readouterr().err.count("\n") == 1


def test_a_package_with_the_ops_of_another_version_is_not_called(installed):
    calls = installed(ops="1.0")
    assert norm.kernels_missing(H100) == f"yolov12_kernels 1.0 has other ops than {compiled.OPS}: build it again"
    assert calls == []


def test_without_the_package_the_reason_names_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "yolov12_kernels", None)  # makes the import fail
    assert norm.kernels_missing(H100) == "the package yolov12_kernels is not installed"
    assert capsys.readouterr().err.endswith("the package yolov12_kernels is not installed\n")


def test_a_cpu_is_served_by_torch_without_a_word(installed, capsys):
    calls = installed()
    y, module = torch.randn(2, 16, 4, 4), nn.BatchNorm2d(16)
    assert isinstance(norm.normalise(y, module, silu=True), norm.ByTorch)
    assert norm.kernels_missing(y.device) == "they are for GPUs, and this is cpu"
    assert (calls, capsys.readouterr().err) == ([], "")


@pytest.mark.parametrize("silu", [True, False])
def test_torchs_operations_give_the_modules_bits(silu: bool):
    torch.manual_seed(0)
    y, grad = torch.randn(3, 6, 5, 7), torch.randn(3, 6, 5, 7)
    plain, ours = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
    leaf = y.clone().requires_grad_()
    expected = F.silu(plain(leaf)) if silu else plain(leaf)
    expected.backward(grad)
    with torch.no_grad():
        made = norm.normalise(y, ours, silu)
        got = [made.output(y), *made.gradient(grad, y)]
    for one, other in zip(got, (expected, leaf.grad, plain.weight.grad, plain.bias.grad), strict=True):
        assert torch.equal(one, other)
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, dict(ours.named_buffers())[name]), name


def test_some_channels_are_those_of_the_whole_wherever_they_are_put():
    torch.manual_seed(0)
    y, module = torch.randn(3, 6, 5, 7), nn.BatchNorm2d(6)
    with torch.no_grad():
        made = norm.normalise(y, copy.deepcopy(module), silu=True)
        part = made.output(y)[:, 1:4]
        place = torch.ones_like(part)
        assert torch.equal(made.output(y, channels=slice(1, 4)), part)
        assert torch.equal(made.output(y, place, channels=slice(1, 4)), part)
        assert torch.equal(made.output(y, place.fill_(1), add=True, channels=slice(1, 4)), 1 + part)
    assert made.output(y, place, channels=slice(1, 4)) is place
