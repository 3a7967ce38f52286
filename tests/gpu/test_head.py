# SPDX-License-Identifier: AGPL-3.0-or-later
"""A detection head in inference, by our kernels: nearer to float64 than upstream's, and the same bits in a graph. Needs one NVIDIA GPU from sm_80 on.

python -m pytest tests/gpu/test_head.py
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from ultralytics.nn.modules.head import Detect

from tests.gpu.compiled import skip_without_code
from tests.gpu.test_blocks import upstreams
from tests.unit.model.inference_networks import blocks_installed, folded
from yolov12.engine.capture import capturing
from yolov12.model.blocks import head as block_head

GPU = torch.device("cuda", 0)
CHANNELS = 64, 128, 256


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    skip_without_code(least=(8, 0))
    with blocks_installed(monkeypatch):
        yield


def a_head(classes: int, dtype: torch.dtype) -> Detect:
    torch.manual_seed(0)
    made = folded(Detect(classes, ch=CHANNELS)).cuda().to(dtype).to(memory_format=torch.channels_last)
    made.stride = torch.tensor([8.0, 16.0, 32.0], device=GPU)
    for part in made.modules():
        if hasattr(part, "forward_fuse"):
            part.forward = part.forward_fuse
    return made


def maps(images: int, dtype: torch.dtype, width: int = 20) -> list[Tensor]:
    torch.manual_seed(1)
    return [
        torch.randn(images, channels, 16 * 4 // 2**level, width * 4 // 2**level, device=GPU, dtype=dtype).contiguous(
            memory_format=torch.channels_last
        )
        for level, channels in enumerate(CHANNELS)
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("classes", [80, 3, 130])
@pytest.mark.parametrize("images", [1, 3])
def test_predictions_are_as_exact_as_upstreams(
    dtype: torch.dtype, classes: int, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, x, seen = a_head(classes, dtype), maps(images, dtype), []
    decode = block_head._decode
    monkeypatch.setattr(block_head, "_decode", lambda *arguments: seen.append(1) or decode(*arguments))
    exact_head = copy.deepcopy(head).double()
    exact_head.stride = head.stride.double()
    with torch.inference_mode():
        ours, raw = head(x)
        assert seen == [1]
        theirs, expected = upstreams(head, x)
        exact, _ = upstreams(exact_head, [level.double() for level in x])
    assert (ours.shape, ours.dtype, ours.is_contiguous()) == (theirs.shape, theirs.dtype, True)
    for part in (slice(0, 4), slice(4, None)):
        mine, yours = ((one[:, part].double() - exact[:, part]).abs().max().item() for one in (ours, theirs))
        assert mine <= 1.1 * yours + 1e-6, f"{mine:.2e} from exact, ultralytics' {yours:.2e}"
    for name in ("boxes", "scores"):
        assert torch.allclose(raw[name].float(), expected[name].float(), rtol=0.05, atol=0.02)


def test_branches_side_by_side_in_a_graph_give_the_same_bits() -> None:
    head, x = a_head(80, torch.float16), maps(1, torch.float16)
    with torch.inference_mode():
        expected = head(x)[0]
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with capturing(graph):
            made = head(x)[0]
        for _ in range(20):
            made.zero_()
            graph.replay()
            assert torch.equal(made, expected)
