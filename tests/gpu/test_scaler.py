# SPDX-License-Identifier: AGPL-3.0-or-later
"""The loss scaler on a GPU: what the CPU can not show is that nothing waits, and that the kernels there keep every bit too.

python -m pytest tests/gpu/test_scaler.py
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from ultralytics.optim.muon import MuSGD

from yolov12.data import synth
from yolov12.precision import YoloAMPScaler, loss_scale, skip
from yolov12.precision.scaler import largest_gradients


def musgd(net: nn.Module) -> MuSGD:
    matrices = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    muon = {"params": matrices, "use_muon": True, "weight_decay": 1e-4}
    return MuSGD([muon, {"params": others}], lr=0.01, momentum=0.9, nesterov=True, muon=0.2, sgd=1.0)


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "fused SGD": lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, fused=True),
    "fused AdamW": lambda net: torch.optim.AdamW(net.parameters(), lr=0.01, fused=True),
    "MuSGD": musgd,
}


class Training:
    """A small convolutional net in fp16, channels_last as ultralytics trains on CUDA."""

    def __init__(self, optimizer: str, scaler: torch.amp.GradScaler) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 1, 1))
        self.net = net.cuda().to(memory_format=torch.channels_last)
        self.optimizer = OPTIMIZERS[optimizer](self.net)
        self.scaler = scaler
        self.images = torch.randn(4, 3, 8, 8).cuda().to(memory_format=torch.channels_last)
        self.wanted = self.images.sum(1, keepdim=True)

    def backward(self, factor: float = 1.0) -> Tensor:
        with torch.autocast("cuda", torch.float16):
            loss = (self.net(self.images).float() - self.wanted).square().mean()
        self.scaler.scale(loss * factor).backward()
        return loss.detach()

    def update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), max_norm=1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def run(self, updates: int) -> float:
        loss = torch.zeros(())
        for _ in range(updates):
            loss = self.backward()
            self.update()
        return float(loss)

    def everything(self) -> list[Tensor]:
        state = [value for of_one in self.optimizer.state.values() for value in of_one.values()]
        tensors = [*self.net.parameters(), *(value for value in state if isinstance(value, Tensor))]
        return [tensor.detach().clone() for tensor in tensors]


@contextmanager
def no_wait() -> Iterator[None]:
    """Any wait for the GPU is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_update_waits_for_the_gpu_whether_it_is_taken_or_skipped(optimizer: str) -> None:
    training = Training(optimizer, YoloAMPScaler())
    training.run(5)
    for factor in (1.0, 1e8, 1e8, 1.0):
        training.backward(factor)
        with no_wait():
            training.update()


def test_the_check_for_waits_sees_that_of_torchs_scaler() -> None:
    training = Training("SGD", torch.amp.GradScaler())
    training.run(5)
    training.backward()
    with pytest.raises(RuntimeError, match="synchronizing"), no_wait():
        training.update()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_skipped_update_leaves_the_very_bits_of_weights_and_state(optimizer: str) -> None:
    training = Training(optimizer, YoloAMPScaler())
    training.run(5)
    before = training.everything()
    for factor in (float("inf"), float("nan"), 1e30):
        training.backward(factor)
        training.update()
    assert all(torch.equal(was, now) for was, now in zip(before, training.everything(), strict=True))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_net_learns_through_spikes(optimizer: str) -> None:
    training = Training(optimizer, YoloAMPScaler())
    for _ in range(10):
        training.backward(1e6)
        training.update()
        last = training.run(9)
    assert all(parameter.isfinite().all() for parameter in training.net.parameters())
    assert last < 0.5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_weights_have_the_very_bits_that_torchs_scaler_gives_with_the_same_scale(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    stock = torch.amp.GradScaler(init_scale=2.0**6, growth_interval=10**6)
    ours = YoloAMPScaler(init_scale=2.0**6)
    theirs, mine = Training(optimizer, stock), Training(optimizer, ours)
    for _ in range(5):
        mine.backward()
        mine.update()
        ours.update(2.0**6)
        theirs.backward()
        theirs.update()
    assert all(torch.equal(a, b) for a, b in zip(mine.everything(), theirs.everything(), strict=True))


@pytest.mark.parametrize("flag", [0.0, 1.0])
def test_copying_under_a_flag_is_exact_for_every_value_that_a_float_has(flag: float) -> None:
    odd = torch.tensor([0.0, -0.0, 1e-45, float("inf"), -float("inf"), 3.4e38] * 5000, device="cuda")
    targets = [torch.full_like(odd, float("nan")), odd.flip(0).contiguous()]
    expected = [odd, odd] if flag else copy.deepcopy(targets)
    skip.copy_where(torch.tensor(flag, device="cuda"), targets, [odd.clone(), odd.clone()])
    for target, value in zip(targets, expected, strict=True):
        assert torch.equal(target.view(torch.int32), value.view(torch.int32))


def test_every_scale_is_a_power_of_two_to_the_bit() -> None:
    bits = torch.arange(loss_scale.LOWEST, loss_scale.HIGHEST + 1, device="cuda")
    scales = loss_scale.power_of_two(bits)
    assert scales.tolist() == [2.0**whole for whole in bits.tolist()]
    assert loss_scale.whole_bits(scales).tolist() == bits.tolist()


def test_nan_and_inf_are_seen_as_what_they_are() -> None:
    parameters = [nn.Parameter(torch.zeros(5000, device="cuda")) for _ in range(3)]
    for parameter, odd in zip(parameters, (1.0, float("inf"), float("nan")), strict=True):
        parameter.grad = torch.ones_like(parameter)
        parameter.grad[77] = odd
    largest = largest_gradients(torch.optim.SGD(parameters), torch.device("cuda"))
    assert largest[:2].tolist() == [1.0, float("inf")]
    assert bool(largest[2].isnan())


def test_a_run_in_fp16_trains_with_it_and_its_checkpoint_loads_in_torchs(tmp_path: Path) -> None:
    from yolov12 import YOLO

    data = synth.write(tmp_path / "synth", n_train=16, n_val=4, imgsz=64)
    model = YOLO("yolov12n.yaml")
    model.train(
        data=str(data),
        project=str(tmp_path),
        name="run",
        epochs=2,
        imgsz=64,
        batch=8,
        device=0,
        amp="fp16",
        plots=False,
    )
    scaler = model.trainer.scaler
    assert type(scaler) is YoloAMPScaler
    assert scaler.is_enabled()
    saved = torch.load(tmp_path / "run" / "weights" / "last.pt", weights_only=False)
    weights = saved["model"].state_dict()
    assert all(tensor.isfinite().all() for tensor in weights.values() if tensor.is_floating_point())
    stock = torch.amp.GradScaler()
    stock.load_state_dict(scaler.state_dict())
    assert stock.get_scale() == scaler.get_scale()
