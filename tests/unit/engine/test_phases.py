# SPDX-License-Identifier: AGPL-3.0-or-later
"""Borders between forward, loss and backward, as a real model tells them."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.engine.tiny import batch, model
from yolov12.engine.phases import told_by
from yolov12.memory.peaks import OfNothing, Peaks
from yolov12.model.loss.levels import Levels


class Told(Peaks):
    """Notes when each phase begins."""

    def begin(self, phase: str) -> None:
        self.__dict__.setdefault("order", []).append(phase)
        super().begin(phase)


def test_the_loss_lasts_until_its_gradient_reaches_the_head():
    of, peaks = model(), Told(OfNothing())
    seen = []
    with told_by(of, peaks):
        loss, _ = of(batch([1, 2]))
    assert peaks.phase == "loss"
    of.model[0].conv.weight.register_hook(lambda _: seen.append(peaks.phase))
    of.model[-1].cv3[0][-1].bias.register_hook(lambda _: seen.append(peaks.phase))
    loss.sum().backward()
    assert peaks.order == ["loss", "backward"]
    assert seen[-1] == "backward"


def test_outputs_that_are_kept_level_by_level_tell_too(monkeypatch: pytest.MonkeyPatch):
    """As on a GPU, where the head's outputs are no values of its dictionary until they are read."""
    of, peaks = model(), Told(OfNothing())
    head = of.model[-1]

    def by_level(x: list[Tensor]) -> Levels:
        return Levels([head.cv2[i](x[i]) for i in range(head.nl)], [head.cv3[i](x[i]) for i in range(head.nl)], x)

    monkeypatch.setattr(head, "forward", by_level)
    with told_by(of, peaks):
        loss, _ = of(batch([1, 2]))
    loss.sum().backward()
    assert peaks.order == ["loss", "backward"]


def test_the_graph_of_a_step_is_gone_with_it():
    """What stays alive would be found by the next backward: one that is captured would then depend on the stream of the last."""
    of = model()
    weight = of.model[0].conv.weight

    def node() -> Any:
        return weight.expand_as(weight).grad_fn.next_functions[0][0]

    gc.collect()
    gc.disable()
    try:
        with told_by(of, Peaks(OfNothing())):
            loss, _ = of(batch([1, 2]))
        node().metadata["step"] = 1
        loss.sum().backward()
        del loss
        assert "step" not in node().metadata
    finally:
        gc.enable()


def test_nothing_stays_on_the_model():
    of = model()
    with told_by(of, Peaks(OfNothing())):
        of(batch([1]))
    assert not of.model[-1]._forward_hooks


def test_a_model_without_a_head_tells_nothing():
    peaks = Told(OfNothing())
    with told_by(nn.Linear(2, 2), peaks):
        nn.Linear(2, 2)(torch.zeros(1, 2)).sum().backward()
    assert "order" not in peaks.__dict__
