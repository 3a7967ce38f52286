# SPDX-License-Identifier: AGPL-3.0-or-later
"""A detection head in inference, by stand-ins for its kernels: upstream's predictions. On a GPU: tests/gpu/test_head.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.modules.head import Detect, Segment

from tests.unit.model import one_kernel_stand_in
from tests.unit.model.inference_networks import blocks_installed, folded
from tests.unit.model.one_kernel_stand_in import Call
from yolov12.model import blocks
from yolov12.model.blocks import head as block_head
from yolov12.model.blocks import joint
from yolov12.model.fused import inference

SIZES = [(8, 9), (4, 5), (2, 3)]
STRIDES = [8.0, 16.0, 32.0]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with blocks_installed(monkeypatch):
        yield


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes the CPU a GPU with kernels; the classes that were decoded."""
    seen: list[int] = []

    def decode(
        boxes: Tensor, scores: Tensor, strides: Tensor, sizes: list[int], classes: int, has_centres: bool
    ) -> Tensor:
        seen.append(classes)
        plain = Detect(classes, ch=[16] * len(strides)).eval()
        plain.stride, plain.xyxy = strides, not has_centres
        maps = [boxes.new_zeros(len(boxes), 1, *size) for size in zip(sizes[::2], sizes[1::2], strict=True)]
        scores = scores[..., :classes].transpose(1, 2)
        return plain._inference({"boxes": boxes.transpose(1, 2), "scores": scores, "feats": maps})

    for module in (inference, joint, block_head):
        monkeypatch.setattr(module, "is_undisturbed", lambda x: not torch.is_grad_enabled())
    monkeypatch.setattr(inference, "_is_ordinary", lambda module, x: False)
    monkeypatch.setattr(block_head, "_decode", decode)
    monkeypatch.setattr(block_head, "takes", one_kernel_stand_in.takes)
    return seen


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    return one_kernel_stand_in.install(monkeypatch)


def a_head(classes: int, **options: bool) -> nn.Module:
    torch.manual_seed(0)
    made = Detect(classes, ch=(16, 32, 64))
    made.stride = torch.tensor(STRIDES)
    for name, value in options.items():
        setattr(made, name, value)
    return folded(made)


def maps(images: int = 2) -> list[Tensor]:
    return [
        torch.randn(images, channels, *size).contiguous(memory_format=torch.channels_last)
        for channels, size in zip((16, 32, 64), SIZES, strict=True)
    ]


def upstreams(head: nn.Module, x: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    blocks.uninstall()
    try:
        return head(x)
    finally:
        blocks.install()


@pytest.mark.parametrize("classes", [80, 3])
@pytest.mark.parametrize("options", [{}, {"legacy": True}, {"xyxy": True}, {"dynamic": True}], ids=str)
def test_predictions_and_raw_outputs_are_upstreams(calls, decoded, classes, options):
    head, x = a_head(classes, **options), maps()
    with torch.inference_mode():
        ours, raw = head(x)
        assert decoded == [classes]
        assert sum(call.out[1] == 64 and call.out_is_part for call in calls) == 3
        theirs, expected = upstreams(head, x)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert raw.keys() == expected.keys()
    for name in ("boxes", "scores"):
        assert torch.allclose(raw[name], expected[name], atol=1e-5)


def in_training(head: Detect) -> None:
    head.train()


def for_export(head: Detect) -> None:
    head.export = True


def with_a_hook(head: Detect) -> None:
    head.cv3[1][-1].register_forward_hook(lambda *_: None)


def with_a_heard_branch(head: Detect) -> None:
    head.cv2[2].register_forward_hook(lambda *_: None)


def with_heard_bins(head: Detect) -> None:
    head.dfl.register_forward_pre_hook(lambda *_: None)


def without_bias(head: Detect) -> None:
    head.cv2[0][-1].bias = None


def in_planes(head: Detect) -> None:
    head.to(memory_format=torch.contiguous_format)


@pytest.mark.parametrize(
    "change",
    [in_training, for_export, with_a_hook, with_a_heard_branch, with_heard_bins, without_bias, in_planes],
)
def test_another_head_is_upstreams(calls, decoded, change):
    head = a_head(8)
    change(head)
    with torch.inference_mode():
        head(maps())
    assert not decoded


@pytest.mark.parametrize(
    "kind",
    [lambda classes: Segment(classes, ch=(16, 32, 64)), lambda classes: Detect(classes, ch=(16, 32, 64), end2end=True)],
)
def test_a_head_of_another_kind_is_upstreams(calls, decoded, kind):
    head = folded(kind(8))
    head.stride = torch.tensor(STRIDES)
    with torch.inference_mode():
        head(maps())
    assert not decoded


def test_a_hook_within_a_branch_hears_its_call(calls, decoded):
    head, heard = a_head(8), []
    head.cv3[0][1].register_forward_hook(lambda *_: heard.append("pixels"))
    with torch.inference_mode():
        head(maps())
    assert heard == ["pixels"]
    assert decoded


def test_jobs_run_in_their_order_where_nothing_is_captured():
    done = []
    block_head.side_by_side([lambda: done.append(1), lambda: done.append(2)], torch.device("cpu"))
    assert done == [1, 2]
