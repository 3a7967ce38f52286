# SPDX-License-Identifier: AGPL-3.0-or-later
"""The progress line of an epoch, which shows the mean losses without keeping the GPU waiting, and how far the host may run ahead of it.

ultralytics reads the losses of each batch (engine/trainer.py:617), and the GPU has nothing to do from there until the host launches the next step.
Here they are copied beside the GPU's work, and shown when they are there: a step or two late, but for the epoch's last.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

INTERVAL_S = 0.25
"""Between two lines."""
STEPS_AHEAD = 2
"""That may be in the GPU's queue when the host prepares the next. Each has a batch of its own in memory."""


class Words(NamedTuple):
    """What stands around the losses."""

    epoch: str
    memory: str
    objects: int
    imgsz: int


class OnTheWay:
    """Numbers that come from a device, in one copy that nobody waits for.

    Args:
        losses: one number each, of any type, on one device.
    """

    def __init__(self, losses: Iterable[Tensor]) -> None:
        numbers = [loss.detach().float().reshape(()) for loss in losses]
        self._numbers = torch.stack(numbers) if numbers else torch.empty(0)
        self._copied: Any = None
        if self._numbers.is_cuda:
            on_host = torch.empty(self._numbers.shape, dtype=self._numbers.dtype, pin_memory=True)
            self._numbers = on_host.copy_(self._numbers, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def is_there(self) -> bool:
        """Whether `read` returns at once."""
        return self._copied is None or self._copied.query()

    def read(self) -> list[float]:
        """The numbers, once they are there."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._numbers.tolist()


class ProgressLine:
    """Of one run.

    Args:
        waiting_for_the_gpu: a context for what waits for it.
        clock_s: gives the time.
    """

    def __init__(
        self,
        waiting_for_the_gpu: Callable[[], AbstractContextManager[None]],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waiting, self._clock_s = waiting_for_the_gpu, clock_s
        self._shown_at_s = -INTERVAL_S
        self._next: tuple[OnTheWay, Words] | None = None

    def begin_epoch(self) -> None:
        """What is still on its way is of an epoch that was left."""
        self._next = None

    def after_batch(self, bar: Any, losses: Iterable[Tensor], words: Callable[[], Words], is_last: bool) -> None:
        """Show what there is to show.

        Args:
            bar: ultralytics' TQDM.
            losses: the epoch's means until now.
            words: gives what stands around them.
            is_last: whether this was the epoch's last batch, whose losses are waited for.
        """
        if is_last:
            self._next = None
            with self._waiting():
                self._show(bar, OnTheWay(losses).read(), words())
            return
        if self._next is None and self._clock_s() - self._shown_at_s >= INTERVAL_S:
            self._next = OnTheWay(losses), words()
        if self._next is not None and self._next[0].is_there():
            copied, of_then = self._next
            self._next = None
            self._show(bar, copied.read(), of_then)

    def _show(self, bar: Any, losses: Sequence[float], words: Words) -> None:
        self._shown_at_s = self._clock_s()
        numbers = *losses, words.objects, words.imgsz
        bar.set_description(("%11s" * 2 + "%11.4g" * len(numbers)) % (words.epoch, words.memory, *numbers))


class InFlight:
    """Keeps the host from running further ahead of a GPU than `STEPS_AHEAD` steps, without ever letting it run dry.

    Args:
        device: that the steps run on; nothing is done on others.
        waiting_for_the_gpu: a context for what waits for it.
        event: makes what notes a moment of the GPU's queue.
    """

    def __init__(
        self,
        device: torch.device,
        waiting_for_the_gpu: Callable[[], AbstractContextManager[None]],
        event: Callable[[], Any] = lambda: torch.cuda.Event(blocking=True),  # the core is free for the loader meanwhile
    ) -> None:
        self._is_on, self._waiting, self._event = device.type == "cuda", waiting_for_the_gpu, event
        self._steps: deque[Any] = deque()

    def after_step(self) -> None:
        """All of a step is in the GPU's queue."""
        if not self._is_on:
            return
        event = self._event()
        event.record()
        self._steps.append(event)
        if len(self._steps) > STEPS_AHEAD:
            with self._waiting():
                self._steps.popleft().synchronize()
