# SPDX-License-Identifier: AGPL-3.0-or-later
"""Blocks in inference made of our kernels: as near to float64 as upstream's in the same type. Needs one NVIDIA GPU from sm_80 on.

python -m pytest tests/gpu/test_blocks.py
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.modules.block import C3, A2C2f, C2f, C3k2
from ultralytics.nn.tasks import DetectionModel

from tests.gpu.compiled import skip_without_code
from tests.unit.model.inference_networks import blocks_installed, folded
from yolov12.model import attention, blocks, fused
from yolov12.model.fused import one_kernel

GPU = torch.device("cuda", 0)
CHANNELS = 128


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    skip_without_code(least=(8, 0))
    with blocks_installed(monkeypatch):
        yield


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each call of the one kernel, whether it wrote some channels of a wider tensor."""
    run, seen = one_kernel._run, []

    def counted(*arguments: object) -> None:
        seen.append(not arguments[-1].is_contiguous(memory_format=torch.channels_last))
        run(*arguments)

    monkeypatch.setattr(one_kernel, "_run", counted)
    return seen


def upstreams(module: nn.Module, x: Tensor) -> Tensor:
    """By ultralytics' own forwards, with torch's convolutions and arithmetic."""
    plain = copy.deepcopy(module)
    blocks.uninstall()
    attention.uninstall()
    fused.uninstall()
    for part in plain.modules():
        if hasattr(part, "forward_fuse"):
            part.forward = part.forward_fuse
    made = plain(x)
    attention.install()
    fused.install()
    blocks.install()
    return made


@pytest.mark.parametrize(
    "make",
    [
        lambda: C2f(CHANNELS, 96, 2, True),
        lambda: C3k2(CHANNELS, 64, 1, False, 0.25),
        lambda: C3k2(CHANNELS, 256, 1, True),
        lambda: C3(CHANNELS, 64, 2),
        lambda: A2C2f(CHANNELS, 128, 1, False, -1),
        lambda: A2C2f(CHANNELS, 128, 2, True, 4),
        lambda: A2C2f(CHANNELS, 128, 2, True, 1, residual=True),
    ],
)
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_block_is_as_exact_as_upstreams(
    served: list[bool], make: Callable[[], nn.Module], images: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    exact_module = folded(make()).double().cuda()
    module = copy.deepcopy(exact_module).to(dtype).to(memory_format=torch.channels_last)
    for part in module.modules():
        if hasattr(part, "forward_fuse"):
            part.forward = part.forward_fuse
    exact_module = copy.deepcopy(module).double()
    x = torch.randn(images, CHANNELS, 40, 40, device=GPU, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        ours = module(x)
        assert any(served)
        theirs, exact = upstreams(module, x), upstreams(exact_module, x.double())
    mine, yours = ((one.double() - exact).square().mean().sqrt().item() for one in (ours, theirs))
    assert mine <= 1.1 * yours + 1e-6, f"{mine:.2e} from exact, ultralytics' {yours:.2e}"


@pytest.mark.parametrize("config", ["yolo12n.yaml", "yolo12s.yaml", "yolo11n.yaml"])
def test_a_whole_network_is_as_exact_as_upstreams(served: list[bool], config: str) -> None:
    torch.manual_seed(0)
    network = DetectionModel(config, verbose=False).eval().cuda().fuse(verbose=False)
    network = network.half().to(memory_format=torch.channels_last)
    x = torch.rand(2, 3, 320, 320, device=GPU).half()
    with torch.inference_mode():
        ours = network(x)[0]
        assert sum(served) > 10
        theirs, exact = upstreams(network, x)[0], upstreams(copy.deepcopy(network).float(), x.float())[0]
    mine, yours = ((one.float() - exact).square().mean().sqrt().item() for one in (ours, theirs))
    assert mine <= 1.2 * yours + 1e-6, f"{mine:.2e} from exact, ultralytics' {yours:.2e}"
