# SPDX-License-Identifier: AGPL-3.0-or-later
"""A model's walk through its layers. In training it is followed: lineages are passed on, and what lies between convolutions is done in one pass.

Upsampling that only a concatenation reads is left to that: what it would write and read again is the largest tensor between two layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules.conv import Concat
from ultralytics.nn.tasks import BaseModel

from yolov12.model.fused import join
from yolov12.model.fused.conv import is_chosen
from yolov12.model.fused.following import tracking
from yolov12.model.fused.join import Doubled
from yolov12.model.fused.lineage import Joined, Source, Upsampled, remember, source_of
from yolov12.model.hooks import is_heard_in_training
from yolov12.seams import Seam

SEAMS = (
    Seam("nn/tasks.py", 182, "ultralytics.nn.tasks.BaseModel._predict_once", "b932f70b581b"),
    Seam("nn/modules/conv.py", 634, "ultralytics.nn.modules.conv.Concat.forward", "5b8ca0e2ae89"),
)

_upstream_predict_once = BaseModel._predict_once


def _predict_once(self: BaseModel, x: Tensor, profile: bool = False, embed: Any = None) -> Any:
    """Replaces ultralytics 8.4.190 nn/tasks.py:182."""
    if torch.compiler.is_compiling() or not (is_chosen() and self.training and torch.is_grad_enabled()):
        return _upstream_predict_once(self, x, profile, embed)
    with tracking():
        if profile or embed:
            return _upstream_predict_once(self, x, profile, embed)
        return _walk(self, x)


def _walk(network: BaseModel, x: Any) -> Any:
    """Upstream's, where nothing is timed and no layer's output is asked for, with upsampling left to the concatenation after it."""
    outputs: list[Any] = []
    layers = list(network.model)
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        if layer.f != -1:
            x = outputs[layer.f] if isinstance(layer.f, int) else [x if j == -1 else outputs[j] for j in layer.f]
        if is_left_to(layer, after, network.save) and join.serves(x):
            x = Doubled(x)
        elif isinstance(x, list) and any(isinstance(part, Doubled) for part in x):
            x = concatenated(x)
        else:
            x = layer(x)
        outputs.append(x if layer.i in network.save else None)
    return x


def is_left_to(layer: nn.Module, after: nn.Module | None, save: list[int]) -> bool:
    """Whether `layer` upsamples as `Doubled` says, and `after` is the one that reads its output, to concatenate it along the channels."""
    if type(layer) is not nn.Upsample or after is None or type(after) is not Concat:
        return False
    doubles = (layer.mode, layer.size) == ("nearest", None) and layer.scale_factor in (2.0, (2.0, 2.0))
    is_read_by_one = layer.i not in save and isinstance(after.f, list) and bool(after.d == 1)
    return doubles and is_read_by_one and not any(map(is_heard_in_training, (layer, after)))


def concatenated(parts: list[Tensor | Doubled]) -> Tensor:
    """Along the channels, with the lineage of what is made."""
    made = join.concatenated(parts)
    remember(made, Joined([_source_of(part) for part in parts]))
    return made


def _source_of(part: Tensor | Doubled) -> Source:
    return Upsampled(source_of(part.tensor), 2.0) if isinstance(part, Doubled) else source_of(part)


def install() -> None:
    """Replace `BaseModel._predict_once`; again does nothing. Models that exist already change too."""
    BaseModel._predict_once = _predict_once


def uninstall() -> None:
    """Put upstream's back."""
    BaseModel._predict_once = _upstream_predict_once
