# SPDX-License-Identifier: AGPL-3.0-or-later
"""The outputs of a detection head level by level, as its last convolutions leave them; joined only if somebody asks for that."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from ultralytics.nn.modules.head import Detect

from yolov12.seams import Seam

SEAMS = (Seam("nn/modules/head.py", 169, "ultralytics.nn.modules.head.Detect.forward_head", "11688d4db3c6"),)

_upstream_forward_head = Detect.forward_head


class Levels(dict[str, Any]):
    """What upstream's head returns in training, {"boxes", "scores", "feats"}, with the first two made when they are first read.

    boxes: for each level (images, 4 * bins, height, width); scores: for each level (images, classes, height, width).
    """

    def __init__(self, boxes: list[Tensor], scores: list[Tensor], feats: list[Tensor]) -> None:
        super().__init__(feats=feats)
        self.boxes, self.scores = boxes, scores

    def __missing__(self, key: str) -> Tensor:
        if key not in ("boxes", "scores"):
            raise KeyError(key)
        joined = torch.cat([level.flatten(2) for level in (self.boxes if key == "boxes" else self.scores)], dim=-1)
        self[key] = joined
        return joined


def forward_head(self: Detect, x: list[Tensor], box_head: Any = None, cls_head: Any = None) -> dict[str, Any]:
    """Replaces upstream's for plain heads in training on a GPU, where it would copy every output to join the levels."""
    on_gpu = x[0].device.type in ("cuda", "meta")  # meta: a GPU's training step followed on shapes alone
    if not (self.training and is_plain(self) and on_gpu and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return _upstream_forward_head(self, x, box_head, cls_head)
    return Levels(
        [box_head[i](x[i]) for i in range(self.nl)], [cls_head[i](x[i]) for i in range(self.nl)], feats=list(x)
    )


def is_plain(head: Any) -> bool:
    """Whether it is upstream's detection head itself, with one set of outputs."""
    return type(head) is Detect and getattr(head, "one2one_cv2", None) is None


def install() -> None:
    """Replace `Detect.forward_head`; again does nothing."""
    Detect.forward_head = forward_head


def uninstall() -> None:
    """Put upstream's back."""
    Detect.forward_head = _upstream_forward_head
