# SPDX-License-Identifier: AGPL-3.0-or-later
"""Weight decay where gradients lie: the bits of torch's SGD, fewer tensors, and groups that are as they were."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from tests.unit.engine.counted import Calls
from yolov12.engine import weight_decay

LAYERS = 20


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(4, 4) for _ in range(LAYERS)])


def optimizer_of(of: nn.Module, **options: Any) -> torch.optim.SGD:
    """In groups as ultralytics has them: one that is decayed, one that is not."""
    weights = [p for p in of.parameters() if p.ndim > 1]
    biases = [p for p in of.parameters() if p.ndim == 1]
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": True, **options}
    return torch.optim.SGD([{"params": weights, "weight_decay": 5e-4}, {"params": biases}], **options)


def give_gradients(of: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in of.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    of[0].weight.grad = None  # type: ignore[index, union-attr]  # as of a layer that is frozen


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("options", [{}, {"nesterov": False}, {"momentum": 0.0, "nesterov": False}, {"maximize": True}])
def test_steps_have_the_bits_of_torchs(foreach: bool, options: dict[str, Any]) -> None:
    ours, stocks = model(), model()
    mine, stock = (optimizer_of(of, foreach=foreach, **options) for of in (ours, stocks))
    before = [dict(group) for group in mine.param_groups]
    for seed in range(3):
        give_gradients(ours, seed)
        give_gradients(stocks, seed)
        with weight_decay.in_place(mine):
            mine.step()
        stock.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), stocks.parameters(), strict=True))
    assert [dict(group) for group in mine.param_groups] == before


def test_two_steps_within_decay_twice() -> None:
    ours, stocks = model(), model()
    mine, stock = optimizer_of(ours), optimizer_of(stocks)
    with weight_decay.in_place(mine):
        for of, optimizer in ((ours, mine), (stocks, stock)):
            for seed in range(2):
                give_gradients(of, seed)
                optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), stocks.parameters(), strict=True))


def test_groups_are_as_they_were_where_a_step_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    of = model()
    optimizer = optimizer_of(of, foreach=True)
    give_gradients(of, 0)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(torch, "_foreach_mul_", fails)
    give_gradients(of, 1)
    optimizer.state.update({p: {"momentum_buffer": torch.zeros_like(p)} for p in of.parameters()})
    with pytest.raises(RuntimeError, match="out of memory"), weight_decay.in_place(optimizer):
        optimizer.step()
    assert [group["weight_decay"] for group in optimizer.param_groups] == [5e-4, 0]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_no_gradient_gets_a_second_tensor() -> None:
    of = model()
    optimizer = optimizer_of(of, foreach=True)
    for seed in range(2):  # the first makes the momentum
        give_gradients(of, seed)
        with Calls() as calls, weight_decay.in_place(optimizer):
            optimizer.step()
    assert calls.new_tensors == 0
    assert calls.count < 20


def test_hooks_of_others_see_groups_and_gradients_as_in_stock() -> None:
    seen: list[Any] = []
    for step in (weight_decay.in_place, nullcontext):
        of = model()
        optimizer = optimizer_of(of, foreach=True)

        def look(*_: Any, of: nn.Module = of, optimizer: Any = optimizer) -> None:
            gradients = [p.grad.clone() for p in of.parameters() if p.grad is not None]
            seen.append(([group["weight_decay"] for group in optimizer.param_groups], gradients))

        optimizer.register_step_pre_hook(look)
        optimizer.register_step_post_hook(look)
        give_gradients(of, 0)
        with step(optimizer):
            optimizer.step()
    before, after, stocks_before, stocks_after = seen
    for ours, stocks in ((before, stocks_before), (after, stocks_after)):
        assert ours[0] == stocks[0] == [5e-4, 0]
        assert all(map(torch.equal, ours[1], stocks[1]))
