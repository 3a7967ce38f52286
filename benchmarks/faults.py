# SPDX-License-Identifier: AGPL-3.0-or-later
"""Failures at chosen points of a training run: where, when, on which rank and of what kind is drawn from a seed beforehand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

STEP_POINTS = ("forward", "loss", "backward")
UPDATE_POINTS = ("optimizer", "ema")
VALIDATION_POINTS = ("validation forward", "validation loss", "nms")
SIMULATED = {
    "cudnn": "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cublas": "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
}
REAL_SHARE = 0.4
"""Of all failures on a GPU; of the rest cuDNN's and cuBLAS' words have a quarter each."""
CHUNK_BYTES = 2**34


@dataclass(frozen=True)
class Fault:
    """One failure."""

    when: int
    """The step in which it happens, counted over the run from 0; for validation the epoch, and one more for the final evaluation."""
    rank: int
    point: str
    kind: str
    """"allocator", "cudnn" or "cublas" for an error made up in their words, "real" for one of the device."""
    place: float
    """Which layer, or how much of the optimizer's step is done: 0 to below 1."""


def draw(seed: int, count: int, steps: int, epochs: int, ranks: int, kinds: Iterable[str]) -> list[Fault]:
    """That many failures at random points: of 20 eleven in steps, six in updates, three in validation, each at a point of its own.

    Args:
        kinds: one for each failure; shuffled here.
    """
    rng = random.Random(seed)
    mixed = list(kinds)
    rng.shuffle(mixed)
    faults: dict[tuple[int, int, str], Fault] = {}
    while len(faults) < count:
        share = len(faults) / count
        points = STEP_POINTS if share < 11 / 20 else UPDATE_POINTS if share < 17 / 20 else VALIDATION_POINTS
        point, rank = rng.choice(points), rng.randrange(ranks)
        # The first rank takes part in the final evaluation everywhere; only NMS is reached in it.
        chances = steps if points is not VALIDATION_POINTS else epochs + (point == "nms" and rank == 0)
        when = rng.randrange(chances)
        faults.setdefault((when, rank, point), Fault(when, rank, point, mixed[len(faults)], rng.random()))
    return sorted(faults.values(), key=lambda fault: (fault.when, fault.rank, fault.point))


def few(ranks: int, steps: int, epochs: int, kinds: Iterable[str]) -> list[Fault]:
    """Failures that recomputation alone can answer: of the same step twice, so that the plan is tightened, and in updates and validations."""
    places = iter(
        (when, rank, point)
        for rank in range(ranks)
        for when, points in (
            (steps // 6, ("forward", "loss")),
            (steps // 3, UPDATE_POINTS),
            (steps // 2, ("loss", "backward")),
            (steps - 1, UPDATE_POINTS),
            (epochs - 1, VALIDATION_POINTS),
        )
        for point in points
    )
    chosen = list(places)
    every = list(kinds)
    return [Fault(*place, every[i % len(every)], (i + 1) / (len(chosen) + 2)) for i, place in enumerate(chosen)]


def kinds_for(device: str, count: int) -> list[str]:
    """What fails how often."""
    real = round(REAL_SHARE * count) if device == "cuda" else 0
    simulated = [("allocator", "cudnn", "allocator", "cublas")[i % 4] for i in range(count - real)]
    return ["real"] * real + simulated


class _LossFails:
    """Calls `fail` in place of a criterion's loss, until it is removed; no hook would do, since our kernels call no module."""

    def __init__(self, criterion: Any, fail: Callable[..., None]) -> None:
        self.criterion, real = criterion, criterion.loss

        def loss(*args: Any) -> Any:
            fail()
            return real(*args)

        criterion.loss = loss

    def remove(self) -> None:
        """The criterion's own again."""
        vars(self.criterion).pop("loss", None)


class Injector:
    """Makes the failures of one rank happen, each once, and remembers which did."""

    def __init__(self, faults: Iterable[Fault], rank: int, device: Any) -> None:
        self.waiting = [fault for fault in faults if fault.rank == rank]
        self.fired: list[dict[str, Any]] = []
        self.device = device

    def due(self, when: int, *points: str) -> list[Fault]:
        """The failures that are still to happen then at these points."""
        return [fault for fault in self.waiting if fault.when == when and fault.point in points]

    def fire(self, fault: Fault) -> None:
        """Raise it, the first time."""
        import torch

        if fault not in self.waiting:
            return
        self.waiting.remove(fault)
        self.fired.append(asdict(fault))
        if fault.kind == "real":
            exhaust(self.device)
        if fault.kind in SIMULATED:
            raise RuntimeError(SIMULATED[fault.kind])
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def arm(self, model: Any, when: int, prefix: str = "") -> Callable[[], None]:
        """Let forward passes, losses and backwards of a model fail, as far as that is due; returns what calls it off again."""
        handles = [self._arm(model, fault) for fault in self.due(when, *(prefix + point for point in STEP_POINTS))]

        def call_off() -> None:
            for handle in handles:
                handle.remove()

        return call_off

    def _arm(self, model: Any, fault: Fault) -> Any:
        layer = model.model[int(fault.place * len(model.model))]

        def fail(*_: Any) -> None:
            self.fire(fault)

        def fail_in_backward(module: Any, inputs: Any, output: Any) -> None:
            first_tensor(output).register_hook(fail)

        if fault.point.endswith("loss"):
            if getattr(model, "criterion", None) is None:  # as upstream does at the first loss
                model.criterion = model.init_criterion()
            return _LossFails(model.criterion, fail)
        if fault.point.endswith("backward"):
            return layer.register_forward_hook(fail_in_backward)
        return layer.register_forward_pre_hook(fail)

    def half_of(self, optimizer: Any, step: Callable[..., Any], now: Callable[[], int]) -> Callable[..., Any]:
        """An optimizer's step that ends after some of its parameter groups, when that is due."""

        def call(*args: Any, **kwargs: Any) -> Any:
            groups = optimizer.param_groups
            for fault in self.due(now(), "optimizer"):
                optimizer.param_groups = groups[: int(fault.place * (len(groups) + 1))]
                try:
                    step(*args, **kwargs)
                finally:
                    optimizer.param_groups = groups
                self.fire(fault)
            return step(*args, **kwargs)

        return call

    def after(self, function: Callable[..., Any], point: str, now: Callable[[], int]) -> Callable[..., Any]:
        """A function that fails when its work is done, when that is due."""

        def call(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            for fault in self.due(now(), point):
                self.fire(fault)
            return result

        return call


def exhaust(device: Any) -> None:
    """Take what is left of the device until it has no more; the error that says so is the device's own."""
    import torch

    held, size = [], CHUNK_BYTES
    while True:
        try:
            held.append(torch.empty(size, dtype=torch.uint8, device=device))
        except torch.cuda.OutOfMemoryError:
            if size <= 2**21:
                raise
            size //= 4


def first_tensor(output: Any) -> Any:
    """Of what a layer returned."""
    import torch

    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    return output
