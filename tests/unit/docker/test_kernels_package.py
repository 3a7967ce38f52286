# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Python side of the `yolov12_kernels` wheel, with a library that is stood in for."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

FACTS = {"VERSION": "1.0+sm75.sm80.sm90", "ARCHS": ["75", "80", "90"], "TORCH": torch.__version__.split("+")[0]}


def forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "yolov12_kernels"]:
        del sys.modules[name]


@pytest.fixture
def package(tmp_path, repository, monkeypatch) -> Iterator[ModuleType]:
    """The package as the wheel installs it; loading its library defines the ops as its C++ source does."""
    source = repository / "docker/kernels"
    shutil.copytree(source / "package/yolov12_kernels", tmp_path / "yolov12_kernels")
    (tmp_path / "yolov12_kernels/_build.py").write_text(
        "".join(f"{name} = {value!r}\n" for name, value in FACTS.items())
    )
    schemas = re.findall(
        r'library\.def\(\s*((?:"[^"]*"\s*)+)', "".join(path.read_text() for path in source.glob("*_ops.cpp"))
    )
    library = torch.library.Library("yolov12_kernels", "FRAGMENT")

    def load(path: str) -> None:
        assert path == str(tmp_path / "yolov12_kernels/_kernels.so")
        if not hasattr(torch.ops.yolov12_kernels, "is_rows"):
            for schema in schemas:
                library.define("".join(re.findall(r'"([^"]*)"', schema)))

    monkeypatch.setattr(torch.ops, "load_library", load)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield importlib.import_module("yolov12_kernels")
    forget()
    library._destroy()


def test_the_version_says_what_was_built(package):
    assert package.__version__ == "1.0+sm75.sm80.sm90"


@pytest.mark.parametrize(
    ("capability", "served"),
    [((7, 5), True), ((8, 0), True), ((8, 9), True), ((9, 0), True), ((7, 0), False), ((12, 0), False)],
)
def test_a_gpu_is_served_by_code_of_its_own_major_version(package, capability, served: bool):
    assert (package.why_not(capability) is None) == served


def test_a_gpu_without_code_is_told_what_there_is(package):
    assert package.why_not((12, 0)) == "there is code for sm_75, sm_80, sm_90, and this GPU is sm_120"


def test_another_torch_is_a_reason_that_names_both_and_nothing_is_loaded(package, monkeypatch):
    monkeypatch.setattr(sys.modules["yolov12_kernels._build"], "TORCH", "1.0.0")
    monkeypatch.setattr(torch.ops, "load_library", lambda path: pytest.fail("loaded"))
    assert package.load() == f"built against torch 1.0.0, and this is torch {torch.__version__}: build it again"


def test_a_library_that_does_not_load_is_a_reason(package, monkeypatch):
    def fail(path: str) -> None:
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(torch.ops, "load_library", fail)
    assert package.load() == "_kernels.so does not load: libcudart.so.13: cannot open shared object file"


def test_it_can_be_loaded_twice_and_tells_the_shapes_of_results(package):
    assert (package.load(), package.load()) == (None, None)
    ops = torch.ops.yolov12_kernels
    y = torch.empty(2, 16, 3, 5, device="meta", dtype=torch.bfloat16)
    weight = torch.empty(16, device="meta")
    constants = ops.batch_norm_statistics(y, weight, weight, None, None, None, 0.1, 1e-3)
    assert (constants.shape, constants.dtype) == ((4, 16), torch.float32)
    grad_y, grad_gamma, grad_beta = ops.batch_norm_gradient(y, y, constants, True)
    assert (grad_y.shape, grad_y.dtype) == (y.shape, torch.bfloat16)
    assert grad_y.is_contiguous(memory_format=torch.channels_last)
    assert (grad_gamma.shape, grad_beta.dtype) == ((16,), torch.float32)
    assert ops.batch_norm_apply(y, constants, True, torch.empty_like(y), False) is None
    picture, layout = torch.empty(5, 7, 3, device="meta", dtype=torch.uint8), torch.empty(6, 4)
    layers = ops.augment_warp([picture], layout, layout, layout, layout, layout, 64, False)
    assert (layers.shape, layers.dtype) == ((6, 3, 64, 64), torch.uint8)
    assert ops.augment_recolour(layers, torch.empty(6, 3, dtype=torch.float64)).shape == layers.shape
    frames, out = torch.empty(2, 5, 7, 3, device="meta", dtype=torch.uint8), torch.empty(2, 3, 64, 64, device="meta")
    assert ops.letterbox(frames, torch.empty(256, device="meta"), 45, 64, 9, 0, out) is None
