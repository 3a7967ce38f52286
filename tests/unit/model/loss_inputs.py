# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the loss is given, made up: predictions, and boxes of each image; and a meter of the bytes that torch holds on the way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from ultralytics.utils.loss import v8DetectionLoss

STRIDES = (8, 16, 32)


class LiveBytes(TorchDispatchMode):
    """Bytes of what torch operations made while this is on and what is alive still: `peak` is the most there was after an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._known: dict[
            int, StorageWeakRef
        ] = {}  # a weak reference keeps another storage from getting the same address
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs or {})):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in self._live:
                self._known.setdefault(key, StorageWeakRef(tensor.untyped_storage()))  # made before: not ours
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in self._known:
                self._live[key] = (StorageWeakRef(tensor.untyped_storage()), tensor.untyped_storage().nbytes())
        self._live = {key: kept for key, kept in self._live.items() if not kept[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return out


def anchor_points(size: int) -> Tensor:
    """Centres of all cells, (anchors, 2), in pixels."""
    grids = [
        torch.cartesian_prod(*[torch.arange(size // stride) * stride + stride / 2] * 2).flip(1) for stride in STRIDES
    ]
    return torch.cat(grids).float()


def boxes(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Random boxes in pixels, xyxy, from a fraction of a cell to the whole image: (count, 4)."""
    corners = torch.rand(count, 2, 2, generator=generator) * size
    return torch.cat((corners.amin(1), corners.amax(1)), 1)


def assigner_arguments(
    boxes_per_image: list[int], size: int, classes: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, ...]:
    """Arguments of `TaskAlignedAssigner.forward`; predicted boxes lie about their anchors, so that many are candidates."""
    random = torch.Generator().manual_seed(seed)
    points = anchor_points(size)
    images, most = len(boxes_per_image), max(boxes_per_image)
    scores = torch.rand(images, len(points), classes, generator=random).to(dtype)
    reach = torch.rand(images, len(points), 4, generator=random) * size / 2
    predicted = torch.cat((points - reach[..., :2], points + reach[..., 2:]), -1)
    labels, gt, mask = torch.zeros(images, most, 1), torch.zeros(images, most, 4), torch.zeros(images, most, 1)
    for image, count in enumerate(boxes_per_image):
        labels[image, :count] = torch.randint(classes, (count, 1), generator=random).float()
        gt[image, :count] = boxes(count, size, random)
        mask[image, :count] = 1
    return scores, predicted, points, labels, gt, mask


class Head(nn.Module):
    """What the criterion asks of a detection head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stride, self.nc, self.reg_max = torch.tensor([float(s) for s in STRIDES]), classes, 16
        self.weight = nn.Parameter(torch.zeros(1))


def criterion(classes: int) -> v8DetectionLoss:
    model = nn.Module()
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    model.model = nn.ModuleList([Head(classes)])
    return v8DetectionLoss(model)


def loss_inputs(
    boxes_per_image: list[int], size: int, classes: int, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(predictions, batch) for a criterion; `boxes` and `scores` of the predictions are leaves that take a gradient."""
    random = torch.Generator().manual_seed(0)
    images, anchors = len(boxes_per_image), sum((size // stride) ** 2 for stride in STRIDES)
    predictions = {
        "boxes": torch.randn(images, 64, anchors, generator=random).to(dtype).requires_grad_(),
        "scores": torch.randn(images, classes, anchors, generator=random).to(dtype).requires_grad_(),
        "feats": [torch.zeros(images, 1, size // stride, size // stride, dtype=dtype) for stride in STRIDES],
    }
    total = sum(boxes_per_image)
    corners = boxes(total, size, random) / size
    batch = {
        "batch_idx": torch.repeat_interleave(torch.arange(images), torch.tensor(boxes_per_image)).float(),
        "cls": torch.randint(classes, (total, 1), generator=random).float(),
        "bboxes": torch.cat(((corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]), 1),
    }
    return predictions, batch
