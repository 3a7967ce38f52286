# SPDX-License-Identifier: AGPL-3.0-or-later
"""Skipping an optimizer's step by a flag that nobody reads on the host."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from ultralytics.optim.muon import MuSGD

from yolov12.precision import skip


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3, 3, 3), (8, 4), (8,), ()]
    made = [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]
    made[0].data = made[0].data.to(memory_format=torch.channels_last)
    return made


def musgd(of: list[nn.Parameter]) -> MuSGD:
    muon = {"params": of[:2], "use_muon": True, "weight_decay": 1e-2}
    return MuSGD([muon, {"params": of[2:]}], lr=1e-2, momentum=0.9, nesterov=True, muon=0.2, sgd=1.0)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "SGD": lambda of: torch.optim.SGD(of, lr=1e-2, momentum=0.9, nesterov=True, weight_decay=1e-2, foreach=True),
    "damped SGD": lambda of: torch.optim.SGD(of, lr=1e-2, momentum=0.9, dampening=0.5),
    "MuSGD": musgd,
}


class CountingSGD(torch.optim.SGD):
    """Keeps a count of steps beside its momentum, as RMSprop or NAdam do, where the test says."""

    zero: object = 0

    def step(self, closure: None = None) -> None:
        super().step(closure)
        for state in self.state.values():
            state["step"] = self.zero


def give_gradients(to: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in to:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.grad = parameter.grad.to(memory_format=torch.channels_last) if parameter.ndim == 4 else parameter.grad


def step_all(of: list[nn.Parameter], optimizer: Optimizer, steps: int) -> None:
    for seed in range(steps):
        give_gradients(of, seed)
        optimizer.step()


def everything(of: list[nn.Parameter], optimizer: Optimizer) -> list[Tensor]:
    state = [value for parameter in of for value in optimizer.state[parameter].values() if isinstance(value, Tensor)]
    return [*(parameter.detach() for parameter in of), *state]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_set_flag_leaves_the_very_bits_of_weights_and_state(name: str) -> None:
    of = parameters()
    optimizer = OPTIMIZERS[name](of)
    step_all(of, optimizer, 2)
    before = copy.deepcopy(everything(of, optimizer))
    for parameter in of:
        parameter.grad = torch.full_like(parameter, float("nan"))
    of[1].grad = torch.full_like(of[1], float("inf"))
    skip.step_or_put_back(optimizer, torch.ones(()))
    assert all(torch.equal(was, now) for was, now in zip(before, everything(of, optimizer), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_clear_flag_gives_the_very_step_of_the_optimizer(name: str) -> None:
    of, alone = parameters(), parameters()
    optimizer, plain = OPTIMIZERS[name](of), OPTIMIZERS[name](alone)
    step_all(of, optimizer, 2)
    step_all(alone, plain, 3)
    give_gradients(of, 2)
    skip.step_or_put_back(optimizer, torch.zeros(()))
    assert all(torch.equal(a, b) for a, b in zip(everything(of, optimizer), everything(alone, plain), strict=True))


@pytest.mark.parametrize("flag", [0.0, 1.0])
def test_copying_under_a_flag_is_exact_for_every_value_that_a_float_has(flag: float) -> None:
    odd = torch.tensor([0.0, -0.0, 1e-45, float("inf"), -float("inf"), 3.4e38])
    targets = [torch.full_like(odd, float("nan")), odd.flip(0).contiguous()]
    expected = [odd, odd] if flag else copy.deepcopy(targets)
    skip.copy_where(torch.tensor(flag), targets, [odd.clone(), odd.clone()])
    for target, value in zip(targets, expected, strict=True):
        assert torch.equal(target.view(torch.int32), value.view(torch.int32))


def test_a_parameter_without_gradient_is_left_alone() -> None:
    of = parameters()
    optimizer = OPTIMIZERS["SGD"](of)
    step_all(of, optimizer, 1)
    of[0].grad = None
    before = of[0].detach().clone()
    assert skip.can_put_back(optimizer, torch.device("cpu"))[0]
    skip.step_or_put_back(optimizer, torch.zeros(()))
    assert torch.equal(of[0], before)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_before_its_first_step_an_optimizer_can_not_be_put_back(name: str) -> None:
    of = parameters()
    optimizer = OPTIMIZERS[name](of)
    give_gradients(of, 0)
    assert skip.can_put_back(optimizer, torch.device("cpu")) == (False, "it has no state for some parameter")


@pytest.mark.parametrize("zero", [0, torch.zeros((), device="meta"), torch.zeros((), dtype=torch.int64)])
def test_state_that_the_flag_can_not_put_back_is_named_as_the_reason_to_wait(zero: object) -> None:
    of = parameters()
    optimizer = CountingSGD(of, lr=1e-2, momentum=0.9)
    optimizer.zero = zero
    step_all(of, optimizer, 1)
    assert skip.can_put_back(optimizer, torch.device("cpu")) == (False, "its state 'step' is no float on the device")


def test_the_first_step_of_fused_sgd_is_left_to_the_host() -> None:
    """torch leaves the momentum of a skipped first step uninitialised; should this change, the guard may go."""
    of = parameters()
    optimizer = torch.optim.SGD(of, lr=1e-2, momentum=0.9, fused=True)
    give_gradients(of, 0)
    assert skip.is_first_of_fused_sgd(optimizer)
    assert not optimizer.state
    optimizer.step()
    assert not skip.is_first_of_fused_sgd(optimizer)


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.AdamW(parameters(), fused=True),
        torch.optim.SGD(parameters(), fused=True),
        torch.optim.SGD(parameters(), momentum=0.9),
    ],
    ids=["fused AdamW", "fused SGD without momentum", "SGD"],
)
def test_other_first_steps_need_no_such_care(optimizer: Optimizer) -> None:
    give_gradients(optimizer.param_groups[0]["params"], 0)
    assert not skip.is_first_of_fused_sgd(optimizer)
