# SPDX-License-Identifier: AGPL-3.0-or-later
"""Gradients that a graph lends: the bits of those that are a step's own, and copied only where another step comes before their update."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tests.unit.engine.lending import images, small_step
from yolov12.engine.attempt import loaded
from yolov12.engine.step import Step


def taken(step: Step) -> list[Tensor]:
    """What an optimizer gets, which leaves nothing behind."""
    step.take_gradients()
    gradients = [parameter.grad for parameter in step.parameters if parameter.grad is not None]
    for parameter in step.parameters:
        parameter.grad = None
    return gradients


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_gradients_of_several_steps_have_the_bits_of_those_that_are_not_lent(steps: int) -> None:
    lent, own = small_step(), small_step(lends=False)
    for update in range(2):
        for i in range(steps):
            lent.run(images(10 * update + i))
            own.run(images(10 * update + i))
        ours, expected = taken(lent), taken(own)
        assert len(ours) == len(lent.parameters)
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_where_each_step_has_its_update_the_optimizer_gets_the_graphs_own() -> None:
    step = small_step()
    for i in range(3):
        step.run(images(i))
        memory = step.graph.memory  # type: ignore[union-attr]  # the stand-in's
        assert all(ours is lent for ours, lent in zip(taken(step), memory, strict=True))


def test_what_the_optimizer_does_to_a_lent_gradient_does_not_reach_the_next_step() -> None:
    lent, own = small_step(), small_step(lends=False)
    for i in range(3):
        lent.run(images(i))
        own.run(images(i))
        ours, expected = taken(lent), taken(own)
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
        for gradient in ours:  # as clipping does
            gradient.mul_(0.5)


def test_a_step_beside_the_graph_adds_to_a_copy() -> None:
    lent, own = small_step(), small_step(lends=False)
    graph = lent.graph
    for i, captured in enumerate([graph, None, graph]):
        lent.graph = captured
        lent.run(images(i))
        own.run(images(i))
    assert all(torch.equal(a, b) for a, b in zip(taken(lent), taken(own), strict=True))


def test_what_is_kept_between_two_steps_goes_on_with_the_bits() -> None:
    first, whole = small_step(), small_step()
    for step in (first, whole):
        step.run(images(0))
    second = small_step()
    second.go_on_from(copy.deepcopy(first.kept()))
    for step in (second, whole):
        step.run(images(1))
    assert all(torch.equal(a, b) for a, b in zip(taken(second), taken(whole), strict=True))


def test_what_was_kept_has_the_strides_of_its_parameter() -> None:
    parameter = torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last)
    kept = torch.rand(4, 3, 5, 5)
    found, nothing = loaded([kept, None], [parameter, parameter])
    assert nothing is None
    assert found is not None
    assert torch.equal(found, kept)
    assert found.stride() == parameter.stride()


def test_a_step_that_goes_on_holds_what_was_kept_with_the_strides_of_its_parameters() -> None:
    step = small_step()
    step.parameters[0].data = step.parameters[0].data.T  # as channels_last, for a matrix
    step.go_on_from({**step.kept(), "held": [torch.rand_like(one).contiguous() for one in step.parameters]})
    strides = [None if one is None else one.stride() for one in step.held]
    assert strides == [one.stride() for one in step.parameters]


def test_a_failed_step_leaves_what_was_lent_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lent, own = small_step(), small_step(lends=False)
    for step in (lent, own):
        step.run(images(0))
    inner, failures = lent.forward_loss, iter([True])

    def fails_once(batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        if next(failures, False):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return inner(batch)

    lent.forward_loss = fails_once
    monkeypatch.setattr(lent, "_tighten", lambda reason: True)
    monkeypatch.setattr(lent, "_was_momentary", lambda reason: False)
    for step in (lent, own):
        step.run(images(1))
    assert all(torch.equal(a, b) for a, b in zip(taken(lent), taken(own), strict=True))


def test_copying_what_is_lent_may_run_out_of_memory_as_the_step_may(monkeypatch: pytest.MonkeyPatch) -> None:
    lent, own = small_step(), small_step(lends=False)
    for step in (lent, own):
        step.run(images(0))
    copies, failures = torch._foreach_mul, iter([True])

    def fails_once(tensors: list[Tensor], factor: float) -> list[Tensor]:
        if next(failures, False):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return list(copies(tensors, factor))

    monkeypatch.setattr(torch, "_foreach_mul", fails_once)
    monkeypatch.setattr(lent, "_tighten", lambda reason: True)
    monkeypatch.setattr(lent, "_was_momentary", lambda reason: False)
    for step in (lent, own):
        step.run(images(1))
    assert lent.history.count("retry") == 1
    assert all(torch.equal(a, b) for a, b in zip(taken(lent), taken(own), strict=True))
