# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where forward of a detection model ends and the loss begins, and where the loss's gradient reaches the model: the borders that a plan has too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from yolov12.memory.peaks import Peaks
from yolov12.model.loss.levels import Levels


@contextmanager
def told_by(model: nn.Module, peaks: Peaks) -> Iterator[None]:
    """Around forward and loss, with `peaks` in the phase "forward": the model's head tells when "loss" begins, and in backward when that does.

    Models without a head tell neither.
    """
    if (head := _head(model)) is None:
        yield
        return

    def backward_begins(_: Tensor) -> None:
        if peaks.phase == "loss":  # the first of several outputs
            peaks.begin("backward")

    def loss_begins(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        peaks.begin("loss")
        passed_on = {id(tensor) for tensor in _tensors(inputs)}  # heads hand out their inputs too
        for tensor in _tensors(output):
            if tensor.requires_grad and id(tensor) not in passed_on:
                # Not register_multi_grad_hook: it knows the nodes that it hangs on, and keeps the whole step's graph until Python looks for cycles.
                tensor.register_hook(backward_begins)

    handle = head.register_forward_hook(loss_begins)
    try:
        yield
    finally:
        handle.remove()


def _head(model: nn.Module) -> nn.Module | None:
    """The last layer of ultralytics' models; None for others."""
    layers = getattr(model, "model", None)
    return layers[-1] if isinstance(layers, nn.Sequential) and len(layers) else None


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, Levels):  # its values are made when they are read, and here nobody is to read them
        yield from (*found.boxes, *found.scores)
    elif isinstance(found, (dict, list, tuple)):
        for one in found.values() if isinstance(found, dict) else found:
            yield from _tensors(one)
