# SPDX-License-Identifier: AGPL-3.0-or-later
"""A network that ultralytics has loaded for inference, run as a CUDA graph: which ones can be, and what tells one graph from another."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.modules.module as torch_module
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from yolov12 import settings
from yolov12.engine.replays import GpuPool, Pool, Replays, foreign_layer
from yolov12.export.adapter import AOTI
from yolov12.log import say_once
from yolov12.model.fused.beside import kept_for
from yolov12.seams import Seam

SEAMS = (
    # Remembers the anchors of the last shape: a graph has those of its own.
    Seam("nn/modules/head.py", 219, "ultralytics.nn.modules.head.Detect._get_decode_boxes", "13ad6e83ae36"),
    Seam("nn/autobackend.py", 302, "ultralytics.nn.autobackend.AutoBackend.forward", "f458af5086b9"),
    # Counts the hooks of a process: where none was added, none is looked for again.
    Seam("utils/hooks.py", 24, "torch.utils.hooks.RemovableHandle.__init__", "c58f2c9dd659"),
)

MOST_PIXELS = 32 * 640 * 640
"""Of a batch that is run as a graph. In larger ones kernels take longer than launching them, and the graph's memory would come on top."""
PART_PIXELS = 16 * 640 * 640
"""Of a part of a larger batch in a validation. A graph keeps a copy of what it reads, so a part is smaller than what is run as a graph by itself."""
HEAD_ATTRIBUTES = ("max_det", "agnostic_nms", "end2end", "xyxy", "export", "dynamic")
"""Numbers and switches of a head that its forward reads, and that may be set between two calls."""


def pool_of(device: torch.device) -> Pool | None:
    """Where graphs are captured for a device; None where there are none, or nobody asked for them."""
    return GpuPool(device) if device.type == "cuda" and settings.current().predict_graphs else None


def why_not(model: Any, compiled: Any) -> str | None:
    """Why a network is not captured; None if it can be.

    Args:
        model: ultralytics' AutoBackend.
        compiled: the argument `compile` of the call.
    """
    if compiled:
        return f"compile={compiled}"
    if settings.current().compile == "0":
        return "compile=0"
    if model.format == AOTI:
        return None
    if model.format != "pt":
        return f"it runs a file of format {model.format}"
    return foreign_layer(model.backend.model)


class Network:
    """Predictions of a model, by a graph where its first batch of that shape is through.

    Args:
        model: ultralytics' AutoBackend with a network of torch, or a package.
        pool: where graphs are captured.
        name: of what is done with it, for what is said.
        compiled: the argument `compile` of the call.
    """

    def __init__(self, model: Any, pool: Pool, name: str, compiled: Any = False) -> None:
        self.off = why_not(model, compiled)
        if self.off is not None:
            if model.format in ("pt", AOTI):
                say_once(f"{name} {self.off}", f"{name}: no CUDA graph: {self.off}")
            return
        # The AutoBackend around it has no modules of its own.
        self._network = model.backend.model if model.format == "pt" else None
        inside = hooks_of(self._network) if self._network is not None else []
        self._hooks = [
            *inside,
            model._forward_hooks,
            model._forward_pre_hooks,
            torch_module._global_forward_hooks,
            torch_module._global_forward_pre_hooks,
        ]
        self._hooks_counted, self._has_hooks = -1, False
        if self._network is not None:
            self._head = self._network.model[-1]
            self._first = next(
                part._parameters for part in self._network.modules() if any(map(_is_there, part._parameters.values()))
            )
        reads = partial(read_by, self._network) if self._network is not None else list
        self._replays = Replays(name, _Predictions(model), pool, reads)

    def why_never(self) -> str | None:
        """Why batches of any size are for ultralytics' own call now; None if they may be for ours."""
        if self.off is not None:
            return self.off
        # A network has some hundred tables of hooks: they are looked at again where there were some, or one was added anywhere.
        if self._has_hooks or self._hooks_counted != RemovableHandle.next_id:
            self._hooks_counted, self._has_hooks = RemovableHandle.next_id, any(self._hooks)
        return "the model has hooks" if self._has_hooks else None

    def why_eager(self, im: Tensor) -> str | None:
        """Why this batch is for ultralytics' own call; None if it is for ours."""
        if (reason := self.why_never()) is not None:
            return reason
        return "the batch is large" if im.shape[0] * im.shape[2] * im.shape[3] > MOST_PIXELS else None

    def state(self) -> tuple[Hashable, ...]:
        """What predictions depend on beside the pictures: it tells whether the weights were moved or cast, or others were loaded into them, and what
        was set of the head."""
        if self._network is None:
            return ()
        weight = next(filter(_is_there, self._first.values()))
        written = 0 if weight.is_inference() else weight._version
        return (weight.data_ptr(), written, *(getattr(self._head, name, None) for name in HEAD_ATTRIBUTES))

    def __call__(self, im: Tensor) -> Tensor:
        """(images, 4 + classes, anchors), or (images, boxes, 6) of a head that suppresses by itself; overwritten by the next call.

        Args:
            im: (images, channels, height, width) from 0 to 1, one for which `why_eager` says None.
        """
        return self._replays(im, *self.state())

    def input_like(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor | None:
        """Where a batch of this shape and type is read by the graph that ran last; None where there is no such place."""
        return self._replays.input_like(shape, dtype) if self.off is None else None

    def drop(self) -> None:
        """Forget the graphs and give their memory back."""
        if self.off is None:
            self._replays.drop()


def predictions_of(made: Any) -> Tensor:
    """Of all that an AutoBackend gives, what NMS reads."""
    return made[0] if isinstance(made, (list, tuple)) else made


def lay_out(model: Any, memory_format: torch.memory_format) -> None:
    """Lay the weights of an AutoBackend's network out anew. They stay ordinary tensors, also where a prediction sets itself up."""
    with torch.inference_mode(False):
        model.backend.model.to(memory_format=memory_format)


def parts_of(im: Tensor) -> Sequence[Tensor]:
    """A batch in parts of `PART_PIXELS`; of one picture, where that is larger already."""
    return im.split(max(1, PART_PIXELS // (im.shape[2] * im.shape[3])))


def _is_there(parameter: Tensor | None) -> bool:
    return parameter is not None


class _Predictions:
    """A model as a function of one tensor. What else is given is in the model already."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, im: Tensor, *state: Hashable) -> Tensor:
        del state
        # By its class: validation puts our call in the place of the object's own.
        return predictions_of(type(self.model).forward(self.model, im))


def read_by(network: nn.Module) -> list[Tensor]:
    """All tensors that a network's forward may read: parameters, buffers, plain attributes such as a head's anchors, and what is kept beside it.

    Not the parameters themselves, whose data a cast would swap, but views of their memory.
    """
    found = [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
    for part in network.modules():
        found += [value for value in vars(part).values() if isinstance(value, Tensor)]
    return found + kept_for(network)


def hooks_of(network: nn.Module) -> list[Any]:
    """The tables of forward hooks of all modules: one of them is not empty if a forward does more than its kernels."""
    return list(chain.from_iterable((part._forward_hooks, part._forward_pre_hooks) for part in network.modules()))
