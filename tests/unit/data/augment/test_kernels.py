# SPDX-License-Identifier: AGPL-3.0-or-later
"""The Triton kernels under Triton's interpreter, against the plain paths. On a GPU: tests/gpu/test_augment.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.data.augment.test_parity import IMGSZ, many
from tests.unit.data.augment.test_warp import layers_of
from yolov12.data.augment import Hyperparameters, backends, colour, draw, render
from yolov12.data.augment.warp import warp

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kernels() -> ModuleType:
    """A copy of the module of its own: whether a kernel is compiled or interpreted is settled when it is defined."""
    pytest.importorskip("triton", reason="Triton is not installed")
    file = Path(str(colour.__file__)).with_name("kernels.py")
    spec = importlib.util.spec_from_file_location("interpreted_kernels", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("perspective", [0.0, 0.002])
def test_warping_is_the_plain_paths(perspective, kernels):
    hyp = Hyperparameters(
        imgsz=64, mosaic=0.5, degrees=45.0, scale=0.6, shear=20.0, translate=0.4, perspective=perspective
    )
    layers, _ = layers_of(hyp, seed=3, count=4)
    distance = (kernels.warp(layers, CPU).int() - warp(layers, CPU).int()).abs()
    assert distance.max() <= 1
    assert (distance > 0).float().mean() < 0.001


def test_recolouring_is_the_plain_paths(kernels):
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    images[0, :, :16] = images[0, :1, :16]  # greys
    gains = np.array([[0.1, 0.5, -0.4], [0, 0, 0], [-0.9, -1, 1]])
    distance = (kernels.recolour(images, gains).int() - colour.recolour(images, gains).int()).abs()
    assert distance.max() <= 1
    assert (distance > 0).float().mean() < 0.001


@pytest.mark.parametrize("capability", [75, 90, 120])
def test_they_compile_for_gpus_that_are_not_here(capability, tmp_path, monkeypatch):
    pytest.importorskip("triton", reason="Triton is not installed")
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from yolov12.data.augment import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    target = GPUTarget("cuda", capability, 32)
    pointers = {"table": "*i64", "seam": "*i64", "backward": "*fp32", "rendered": "*u8", "size": "i32", "limit": "i32"}
    constants = {"EMPTY": 114, "IS_PROJECTIVE": True, "BLOCK": kernels.BLOCK}
    assert "cubin" in compile_kernel(source_of(ASTSource, kernels._warp, pointers, constants), target=target).asm
    pointers = dict.fromkeys(("images", "tables", "coloured"), "*u8") | {"area": "i32"}
    pointers |= {"for_saturation": "*i32", "for_hue": "*i32"}
    constants = {"BLOCK": kernels.BLOCK}
    assert "cubin" in compile_kernel(source_of(ASTSource, kernels._recolour, pointers, constants), target=target).asm


def source_of(make: Any, kernel: Any, types: dict[str, str], constants: dict[str, Any]) -> Any:
    """What the compiler takes: all arguments by name, in the kernel's order."""
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    return make(fn=kernel, signature=signature, constexprs=constants)


def test_a_whole_batch_is_the_plain_paths(kernels, monkeypatch):
    hyp = Hyperparameters(imgsz=IMGSZ, mosaic=0.7, mixup=0.5, cutmix=0.5, scale=0.5, fliplr=0.5, hsv_s=0.7, hsv_v=0.4)
    rng = np.random.default_rng(0)
    sources = many(rng, 8)
    recipe = draw(rng, np.arange(4), hyp, lambda rng, count: rng.integers(8, size=count))
    plain = render(recipe, sources, "cpu")
    monkeypatch.setattr(backends, "choose", lambda device: backends.Backend(kernels.warp, kernels.recolour))
    distance = (render(recipe, sources, "cpu").img.int() - plain.img.int()).abs()
    assert (distance > 2).float().mean() <= 0.001
