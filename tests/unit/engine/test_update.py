# SPDX-License-Identifier: AGPL-3.0-or-later
"""An update of the weights that ran out of memory is made again, with the bits of one that did not; one that can not be made changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.torch_utils import ModelEMA

from tests.unit.engine.counted import Calls
from yolov12.engine import room
from yolov12.engine import update as update_module
from yolov12.engine.update import Update
from yolov12.errors import RetryableError
from yolov12.memory.history import History
from yolov12.precision import YoloAMPScaler

OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_module, "WAITS_S", (0.0, 0.0))


class Run:
    """A small trainer with everything that an update touches."""

    def __init__(self, name: str = "NAdam", fp16: bool = True, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).to(device)
        optimizer: Any
        if name == "Adadelta":
            optimizer = torch.optim.Adadelta(self.model.parameters())
        else:
            net = SimpleNamespace(
                model=self.model, named_modules=self.model.named_modules, parameters=self.model.parameters
            )
            optimizer = DetectionTrainer.build_optimizer(None, net, name=name, lr=0.01, momentum=0.9, decay=5e-4)
        self.trainer = SimpleNamespace(
            model=self.model,
            optimizer=optimizer,
            ema=ModelEMA(self.model),
            scaler=YoloAMPScaler(device, enabled=fp16),
            device=torch.device(device),
        )
        self.trainer.optimizer_step = lambda: BaseTrainer.optimizer_step(self.trainer)
        self.history = History()
        self.update = Update(self.trainer, self.history)
        self.generator = torch.Generator().manual_seed(1)

    def give_gradients(self) -> None:
        """Scaled ones, larger than clipping allows."""
        device = self.trainer.device
        scale = self.trainer.scaler.scale(torch.ones((), device=device))
        for parameter in self.model.parameters():
            parameter.grad = 10 * torch.randn(parameter.shape, generator=self.generator).to(device) * scale

    def step(self, times: int = 1) -> Run:
        for _ in range(times):
            self.give_gradients()
            self.update.run()
        return self

    def everything(self) -> dict[str, Any]:
        """All that a further update depends on."""
        found: dict[str, Any] = {f"model {k}": v.clone() for k, v in self.model.state_dict().items()}
        found |= {f"ema {k}": v.clone() for k, v in self.trainer.ema.ema.state_dict().items()}
        for i, parameter in enumerate(self.model.parameters()):
            found[f"gradient {i}"] = None if parameter.grad is None else parameter.grad.clone()
            for name, value in self.trainer.optimizer.state.get(parameter, {}).items():
                found[f"{name} {i}"] = value.clone()
        return found | {"updates": self.trainer.ema.updates, "scaler": dict(self.trainer.scaler.state_dict())}


def assert_same(ours: dict[str, Any], expected: dict[str, Any]) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        same = torch.equal(ours[name], value) if isinstance(value, Tensor) else ours[name] == value
        assert same, name


def failing(
    function: Callable[..., Any], times: int, after: bool, error: Exception = OUT_OF_MEMORY
) -> Callable[..., Any]:
    """`function`, but its first calls raise, before or after their work."""
    left = iter(range(times))

    def call(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs) if after else None
        if next(left, None) is not None:
            raise error
        return result if after else function(*args, **kwargs)

    return call


POINTS = {
    "unscale": lambda run: (run.trainer.scaler, "unscale_"),
    "optimizer": lambda run: (run.trainer.optimizer, "step"),
    "scale": lambda run: (run.trainer.scaler, "update"),
    "ema": lambda run: (run.trainer.ema, "update"),
}


def fail_at(run: Run, point: str, times: int, after: bool, error: Exception = OUT_OF_MEMORY) -> None:
    owner, name = POINTS[point](run)
    setattr(owner, name, failing(getattr(owner, name), times, after, error))


@pytest.mark.parametrize("name", ["SGD", "MuSGD", "AdamW", "NAdam"])
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_update_that_ran_out_of_memory_has_the_bits_of_one_that_did_not(name: str, point: str, after: bool) -> None:
    expected = Run(name).step(4)
    run = Run(name).step(2)
    fail_at(run, point, times=2, after=after)
    run.step(2)
    assert_same(run.everything(), expected.everything())
    assert run.history.count("update") == 2


def test_half_an_optimizers_step_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, run = Run("MuSGD").step(2), Run("MuSGD").step(1)
    monkeypatch.setattr(torch, "_foreach_add_", failing(torch._foreach_add_, times=1, after=True))
    assert_same(run.step(1).everything(), expected.everything())


def test_without_a_loss_scale_it_is_the_same() -> None:
    expected, run = Run("SGD", fp16=False).step(3), Run("SGD", fp16=False).step(1)
    fail_at(run, "ema", times=1, after=True)
    assert_same(run.step(2).everything(), expected.everything())


def test_state_that_an_optimizer_made_in_a_failed_step_is_gone() -> None:
    run = Run("Adadelta")
    fail_at(run, "optimizer", times=100, after=True)
    run.give_gradients()
    before = run.everything()
    with pytest.raises(RetryableError):
        run.update.run()
    assert not run.trainer.optimizer.state
    assert_same(run.everything(), before)


@pytest.mark.parametrize("buffer", [0, 1])
def test_where_the_copies_do_not_fit_on_the_device_they_go_to_the_host(
    buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BUCKET_BYTES", 1024)
    expected, run = Run().step(3), Run().step(2)
    claim, buffers = room._Bucket.claim, iter(range(100))

    def fails_at_one(bucket: room._Bucket) -> None:
        if next(buffers) == buffer:
            raise OUT_OF_MEMORY
        claim(bucket)

    monkeypatch.setattr(room._Bucket, "claim", fails_at_one)
    assert_same(run.step(1).everything(), expected.everything())
    assert run.history.count("update") == 1
    assert kept_bytes(run) == 0


def kept_bytes(run: Run) -> int:
    """Memory of the copies."""
    return sum(bucket._storage.nbytes() for bucket in run.update.copies._room._buckets)


def test_the_copies_take_memory_during_an_update_only() -> None:
    run, seen = Run(), []
    stock = run.trainer.optimizer_step
    run.trainer.optimizer_step = lambda: (seen.append(kept_bytes(run)), stock())
    run.step(3)
    tensors = [*run.model.parameters(), *run.trainer.ema.ema.state_dict().values()]
    assert min(seen) > sum(tensor.nbytes for tensor in tensors)
    assert kept_bytes(run) == 0


@pytest.mark.parametrize("error", [OUT_OF_MEMORY, ValueError("a bug")])
def test_their_memory_is_given_back_however_an_update_ends(error: Exception) -> None:
    run = Run().step(1)
    fail_at(run, "optimizer", times=100, after=True, error=error)
    with pytest.raises((RetryableError, ValueError)):
        run.step()
    assert kept_bytes(run) == 0


def test_state_that_was_loaded_anew_is_what_a_failed_update_goes_back_to() -> None:
    """Its tensors are others than those of the update before."""
    expected, run = Run("AdamW").step(3), Run("AdamW").step(3)
    for one in (expected, run):
        one.trainer.optimizer.load_state_dict(copy.deepcopy(one.trainer.optimizer.state_dict()))
    fail_at(run, "ema", times=1, after=True)
    assert_same(run.step(2).everything(), expected.step(2).everything())


def test_parameters_that_were_added_to_the_optimizer_are_put_back() -> None:
    runs = [Run("SGD", fp16=False).step(2) for _ in range(2)]
    added = []
    for run in runs:
        added.append(nn.Parameter(torch.ones(3)))
        run.trainer.optimizer.add_param_group({"params": [added[-1]], "weight_decay": 0.1})
        added[-1].grad = torch.ones(3)
        run.give_gradients()
    fail_at(runs[0], "ema", times=1, after=True)
    for run in runs:
        run.update.run()
    assert torch.equal(*added)
    assert not torch.equal(added[0], torch.ones(3))


def test_gradients_of_other_strides_and_fewer_of_them_are_put_back() -> None:
    expected, run = Run("SGD", fp16=False).step(2), Run("SGD", fp16=False).step(2)
    fail_at(run, "ema", times=1, after=True)
    for one in (expected, run):
        one.give_gradients()
        weight = one.model[0].weight
        weight.grad = weight.grad.to(memory_format=torch.channels_last)
        one.model[1].bias.grad = None
        one.update.run()
        one.step(1)
    assert_same(run.everything(), expected.everything())


class DeepRun(Run):
    """With as many layers as are asked for, and an optimizer that updates lists, as on a GPU."""

    def __init__(self, layers: int) -> None:
        super().__init__("SGD", fp16=False)
        self.model = nn.Sequential(*[nn.Conv2d(2, 2, 1) for _ in range(layers)])
        self.trainer.model, self.trainer.ema = self.model, ModelEMA(self.model)
        self.trainer.optimizer = torch.optim.SGD(
            self.model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-3, foreach=True
        )
        self.update = Update(self.trainer, self.history)


def calls_of_an_update(layers: int) -> tuple[int, int]:
    """(torch's functions that Python calls, tensors that they make but for each gradient's norm) once the first updates are made."""
    run = DeepRun(layers).step(2)
    run.give_gradients()
    with Calls() as calls:
        run.update.run()
    return calls.count, calls.new_tensors - len(run.update.parameters)


def test_neither_calls_nor_new_tensors_grow_with_the_model() -> None:
    few, many = calls_of_an_update(2), calls_of_an_update(40)
    assert many == few
    assert many[0] < 40
    assert many[1] < 10


def test_after_some_tries_the_run_ends_with_the_weights_it_had_and_says_what_to_do() -> None:
    run = Run().step(1)
    fail_at(run, "optimizer", times=100, after=True)
    run.give_gradients()
    before = run.everything()
    with pytest.raises(RetryableError, match=r"3 times in a row.*smaller model"):
        run.update.run()
    assert_same(run.everything(), before)


def test_another_error_is_raised_as_it_is() -> None:
    run = Run()
    fail_at(run, "optimizer", times=1, after=False, error=ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        run.step()


class Operators(TorchDispatchMode):
    """Notes what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_upstreams_ema_updates_in_place_by_one_operator() -> None:
    run = Run().step(1)
    with Operators() as operators:
        run.trainer.ema.update(run.model)
    assert operators.seen == ["aten::_foreach_lerp_"]


def test_no_room_for_the_optimizers_state_ends_the_run_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_module.optimizer_state, "allocate", failing(lambda optimizer: True, 1, after=False))
    with pytest.raises(RetryableError, match=r"no room for the state of NAdam.*optimizer=SGD"):
        Run()
