# SPDX-License-Identifier: AGPL-3.0-or-later
"""An optimizer whose state is made before its first step goes the very way of one that makes it in that step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from ultralytics.models.yolo.detect import DetectionTrainer

from yolov12.engine.optimizer_state import allocate

NAMES = ["SGD", "MuSGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop"]


class Net(nn.Module):
    """A convolution, its norm and a head, named as ultralytics' models are."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))


def trained(name: str, steps: int, beforehand: bool) -> tuple[Net, Optimizer]:
    """A net after some steps on made-up gradients, zeros of both signs among them."""
    torch.manual_seed(0)
    net = Net()
    optimizer = DetectionTrainer.build_optimizer(None, net, name=name, lr=0.01, momentum=0.9, decay=5e-4)
    if beforehand:
        assert allocate(optimizer)
    for _ in range(steps):
        for parameter in net.parameters():
            gradient = torch.randn_like(parameter)
            gradient.view(-1)[:2] = torch.tensor([0.0, -0.0])
            parameter.grad = gradient
        optimizer.step()
    return net, optimizer


def tensors_of(optimizer: Optimizer) -> list[Tensor]:
    groups = (p for group in optimizer.param_groups for p in group["params"])
    return [value for p in groups for _, value in sorted(optimizer.state[p].items()) if isinstance(value, Tensor)]


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.int32)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 3])
def test_the_first_updates_keep_their_bits(name: str, steps: int) -> None:
    expected, stock = trained(name, steps, beforehand=False)
    net, optimizer = trained(name, steps, beforehand=True)
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        assert torch.equal(bits(ours), bits(theirs))
    for ours, theirs in zip(tensors_of(optimizer), tensors_of(stock), strict=True):
        assert torch.equal(bits(ours), bits(theirs))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_step_makes_no_state_of_its_own(name: str) -> None:
    _, before = trained(name, 0, beforehand=True)
    _, after = trained(name, 1, beforehand=False)
    assert [t.shape for t in tensors_of(before)] == [t.shape for t in tensors_of(after)]


def test_no_gradient_is_left_behind() -> None:
    net, _ = trained("NAdam", 0, beforehand=True)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_state_of_a_resumed_run_stays() -> None:
    _, optimizer = trained("Adam", 3, beforehand=False)
    before = [t.clone() for t in tensors_of(optimizer)]
    allocate(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors_of(optimizer), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_state_of_another_layout_is_laid_out_as_the_parameters(name: str) -> None:
    """As torch's fused kernels ask for it, whose check only GPUs have."""
    _, contiguous = trained(name, 2, beforehand=False)
    net = Net().to(memory_format=torch.channels_last)
    optimizer = DetectionTrainer.build_optimizer(None, net, name=name, lr=0.01, momentum=0.9, decay=5e-4)
    optimizer.load_state_dict(contiguous.state_dict())
    allocate(optimizer)
    for ours, theirs in zip(tensors_of(optimizer), tensors_of(contiguous), strict=True):
        assert torch.equal(ours, theirs)
    for parameter, state in optimizer.state.items():
        like_it = [value for value in state.values() if isinstance(value, Tensor) and value.shape == parameter.shape]
        assert like_it
        assert all(value.stride() == parameter.stride() for value in like_it)


def test_frozen_parameters_get_none() -> None:
    net = Net()
    net.model[0].requires_grad_(False)
    optimizer = DetectionTrainer.build_optimizer(None, net, name="AdamW", lr=0.01, momentum=0.9, decay=5e-4)
    allocate(optimizer)
    assert not any(parameter in optimizer.state for parameter in net.model[0].parameters())


def test_an_optimizer_of_the_users_makes_its_state_itself() -> None:
    assert not allocate(torch.optim.Adagrad(Net().parameters()))
