# SPDX-License-Identifier: AGPL-3.0-or-later
"""A detection head in inference: the last convolutions write rows of one tensor for all levels, and one kernel makes predictions of them.

Upstream concatenates the levels, turns distributions of sides into boxes and logits into scores in more than ten kernels. Here that is one
(docker/kernels/decode.h), in float32 and rounded once. While a graph is captured the branches of the levels, which know nothing of each other, are
captured side by side: each is a chain of small kernels, and together they fill the GPU better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.modules.module as torch_module
from torch import Tensor, nn
from torch.nn import functional as F
from ultralytics.nn.modules.block import DFL
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.modules.head import Detect

from yolov12.model.blocks.joint import into
from yolov12.model.fused import one_kernel
from yolov12.model.fused.beside import made_from
from yolov12.model.fused.one_kernel import convolved_by, is_undisturbed, serves, takes
from yolov12.model.hooks import is_heard
from yolov12.seams import Seam

SEAMS = (
    # Replaced.
    Seam("nn/modules/head.py", 180, "ultralytics.nn.modules.head.Detect.forward", "164f309a5c8f"),
    # Followed within it.
    Seam("nn/modules/head.py", 169, "ultralytics.nn.modules.head.Detect.forward_head", "11688d4db3c6"),
    Seam("nn/modules/head.py", 206, "ultralytics.nn.modules.head.Detect._inference", "b279d22be88b"),
    Seam("nn/modules/head.py", 219, "ultralytics.nn.modules.head.Detect._get_decode_boxes", "13ad6e83ae36"),
    Seam("nn/modules/head.py", 243, "ultralytics.nn.modules.head.Detect.decode_bboxes", "8d132effacab"),
    Seam("nn/modules/block.py", 78, "ultralytics.nn.modules.block.DFL.forward", "96ca09ac5090"),
    Seam("utils/tal.py", 539, "ultralytics.utils.tal.make_anchors", "fe5fb67a678a"),
    Seam("utils/tal.py", 568, "ultralytics.utils.tal.dist2bbox", "6806e33e0c18"),
)

BINS = 16
"""Of the distribution of a side, in all of ultralytics' models that have one."""
MOST_LEVELS = 5
"""That the kernel takes."""
_LOAD = 8
"""Scores of an anchor are read so many at a time."""

_upstream_forward = Detect.forward


def install() -> None:
    """Replace `Detect.forward`; again does nothing. Models that exist already change too."""
    Detect.forward = forward


def _by_upstreams_name(ours: Callable[..., Any]) -> Callable[..., Any]:
    # Segmentation heads of before ultralytics 8.1 hold this function itself, and pickle writes it down by its name: stock has none but this.
    for name in ("__module__", "__qualname__", "__name__"):
        setattr(ours, name, getattr(_upstream_forward, name))
    return ours


def uninstall() -> None:
    """Put upstream's back."""
    Detect.forward = _upstream_forward


@_by_upstreams_name
def forward(self: Detect, x: list[Tensor]) -> Any:
    """(predictions, raw outputs) as upstream's gives them in inference. Replaces ultralytics 8.4.190 nn/modules/head.py:180."""
    return _predictions(self, x) if _is_ours(self, x) else _upstream_forward(self, x)


def _is_ours(head: Detect, x: list[Tensor]) -> bool:
    if head.training or head.export or type(head) is not Detect or getattr(head, "one2one_cv2", None) is not None:
        return False
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks or not is_undisturbed(x[0]):
        return False
    if type(head.dfl) is not DFL or head.reg_max != BINS or is_heard(head.dfl) or is_heard(head.dfl.conv):
        return False
    branches = [*head.cv2, *head.cv3]
    return head.nl <= MOST_LEVELS and all(map(_is_branch, branches)) and _begins_with_ours(head.cv2[0], x[0])


def _is_branch(branch: Any) -> bool:
    """Whether it ends with a plain convolution of single pixels."""
    if type(branch) is not nn.Sequential or is_heard(branch):
        return False
    return _is_single(branch[-1])


def _is_single(conv: Any) -> bool:
    """A plain convolution of single pixels, with a bias, whose call nobody hears."""
    return (
        type(conv) is nn.Conv2d
        and conv.kernel_size == conv.stride == (1, 1)
        and conv.padding == (0, 0)
        and conv.groups == 1
        and conv.bias is not None
        and not is_heard(conv)
    )


def _begins_with_ours(branch: Any, x: Tensor) -> bool:
    first = branch[0]
    return type(first) is Conv and serves(first.conv, first.act, x)


def _predictions(head: Detect, x: list[Tensor]) -> tuple[Tensor, dict[str, Any]]:
    sizes = [(level.shape[2], level.shape[3]) for level in x]
    anchors, width = sum(height * width for height, width in sizes), -(-head.nc // _LOAD) * _LOAD
    boxes, scores = (x[0].new_empty((len(x[0]), anchors, channels)) for channels in (4 * BINS, width))
    jobs, begin = [], 0
    for i, size in enumerate(sizes):
        for branch, rows in ((head.cv2[i], boxes), (head.cv3[i], scores)):
            jobs.append(partial(_run_branch, branch, x[i], _level_of(rows, begin, size)))
        begin += size[0] * size[1]
    side_by_side(jobs, x[0].device)
    (strides,) = made_from(head, "strides", [head.stride], lambda: (head.stride.to(x[0].device, torch.float32),))
    y = _decode(boxes, scores, strides, [number for size in sizes for number in size], head.nc, not head.xyxy)
    raw = {"boxes": boxes.transpose(1, 2), "scores": scores[..., : head.nc].transpose(1, 2), "feats": x}
    return y, raw


def _level_of(rows: Tensor, begin: int, size: tuple[int, int]) -> Tensor:
    """(images, channels, height, width): the anchors of a level, among (images, anchors, channels)."""
    level = rows[:, begin : begin + size[0] * size[1]]
    return level.view(len(rows), *size, rows.shape[2]).permute(0, 3, 1, 2)


def _run_branch(branch: Any, x: Tensor, out: Tensor) -> None:
    *before, last = branch
    for module in before:
        x = into(module, x)
    weight, bias = _filled_up(last, out.shape[1])
    if x.dtype is weight.dtype and takes(x, weight, 1):
        convolved_by(last, weight, bias, x, stride=1, silu=False, out=out)
    else:
        out[:, : last.out_channels].copy_(last(x))


def _filled_up(conv: nn.Conv2d, channels: int) -> tuple[Tensor, Tensor]:
    """Its filters and bias, with zeros for channels that it has not."""
    weight, bias, missing = conv.weight, conv.bias, channels - conv.out_channels
    assert bias is not None
    if missing:
        weight, bias = made_from(conv, "filled up", [weight, bias], partial(_with_zeros, weight, bias, missing))
    return weight, bias


def _with_zeros(weight: Tensor, bias: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    return F.pad(weight, (0,) * 7 + (channels,)), F.pad(bias, (0, channels))


def side_by_side(jobs: Sequence[Callable[[], None]], device: torch.device) -> None:
    """Call functions whose kernels know nothing of each other. In a graph that is being captured each has a stream of its own.

    Elsewhere one after the other: that is launched by the CPU, which takes longer than most of the kernels.
    """
    if device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
        for job in jobs:
            job()
        return
    here, aside = torch.cuda.current_stream(device), _streams(device, len(jobs) - 1)
    for stream, job in zip(aside, jobs[1:], strict=True):
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            job()
    jobs[0]()
    for stream in aside:
        here.wait_stream(stream)


@cache
def _streams(device: torch.device, count: int) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream(device) for _ in range(count)]


def _decode(
    boxes: Tensor, scores: Tensor, strides: Tensor, sizes: list[int], classes: int, has_centres: bool
) -> Tensor:
    return torch.ops.yolov12_kernels.decode(
        boxes, scores, strides, sizes, classes, has_centres, one_kernel.BEGINS_EARLY
    )
