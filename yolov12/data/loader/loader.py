# SPDX-License-Identifier: AGPL-3.0-or-later
"""The loader that a trainer iterates over: ultralytics' contract (engine/trainer.py:301-340 and 500-520), batches made ahead in a thread.

On a GPU that thread works on a stream of its own; a batch is handed over with an event, and the consumer's stream, not the consumer, waits for it.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from yolov12.data.loader.ahead import Ahead
from yolov12.data.loader.prepare import Place, Preparer
from yolov12.data.order import GHOST, Order, Share
from yolov12.log import say_once, warn

T = TypeVar("T")

BATCHES_AHEAD = 2
"""Finished ones on the device; each takes 3 x imgsz x imgsz bytes an image."""
READ_AHEAD = 2
"""Batches whose pictures are read while an earlier one is made, or while the run validates between two epochs."""
OUT_OF_MEMORY_WAITS_S = (0.0, 0.5, 2.0)
"""Before each further try of a batch for which the GPU has no memory at this moment: the training step uses most of it, and gives back."""


class Finished(NamedTuple):
    """A batch on its way to the consumer."""

    batch: dict[str, Any]
    ready: torch.cuda.Event | None
    """On a GPU: when its pixels are there."""


def fingerprint(dataset: Any) -> list[Any]:
    """What tells that a data set's transforms were changed: which objects they are, and the numbers in them."""
    return [(id(step), _plain(step)) for step in _steps(getattr(dataset, "transforms", None))]


def _steps(transform: Any) -> Iterator[Any]:
    inner = getattr(transform, "transforms", None)
    if not isinstance(inner, list):
        yield transform
        return
    for step in inner:
        yield from _steps(step)


def _plain(step: Any) -> dict[str, Any]:
    return {
        name: value for name, value in getattr(step, "__dict__", {}).items() if isinstance(value, (int, float, str))
    }


class PictureLoader:
    """Iterating gives one epoch of this rank's batches; the order is that of data/order.py."""

    def __init__(
        self,
        dataset: Any,
        preparer: Preparer,
        order: Order,
        batch_size: int,
        num_workers: int,
    ) -> None:
        """As attributes, what a trainer reads from ultralytics' loaders.

        Args:
            dataset: ultralytics', for its labels and names.
            preparer: makes the batches.
            order: which samples an epoch has, and how it is cut into batches.
            batch_size: images of a batch of this rank.
            num_workers: reading processes or threads, to tell.
        """
        self.dataset, self.preparer, self.order = dataset, preparer, order
        self.batch_size, self.num_workers, self.drop_last = batch_size, num_workers, order.plan.drop_last
        self._device = preparer.gatherer.store.block.device
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        if self._stream is not None:
            # The store's memory may have belonged to something that the current stream still works on, and is given back while ours does.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            preparer.gatherer.store.block.record_stream(self._stream)
        self._at: Place | None = None
        self._making = threading.Lock()
        self._transforms = fingerprint(dataset)
        self._running: Ahead[Finished] | None = None
        atexit.register(self.close)  # a thread that is in the middle of a kernel launch when Python ends can crash it

    @property
    def sampler(self) -> Order:
        """The order, by the name that torch's loaders have for it."""
        return self.order

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.order.plan.batches()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Start an epoch; one that is still running is ended."""
        self.reset()
        running = self._running = Ahead(self._epoch(), BATCHES_AHEAD - 1, self._doing)
        try:
            for finished in running:
                yield self._received(finished)
        finally:
            running.close()
        self._report()

    def undisturbed(self) -> AbstractContextManager[Any]:
        """Within it no batch is made. NVIDIA DALI uses the GPU's legacy stream, which ends a capture that is under way in another thread."""
        return self._making

    def set_epoch(self, epoch: int, seen: int = 0) -> None:
        """Let the next iteration give what is left of `epoch` after `seen` samples of all ranks, as if those had been taken."""
        self.reset()
        self.order.set_epoch(epoch, seen)

    def close_mosaic(self) -> None:
        """From the next epoch on, leave out mosaic, mixup, cutmix and copy-paste."""
        self.preparer.hyperparameters = self.preparer.hyperparameters.without_mosaic()
        self._transforms = fingerprint(self.dataset)

    def is_outdated(self) -> bool:
        """Whether somebody changed the data set's transforms, which are not used here, since the loader or `close_mosaic` took theirs over."""
        return fingerprint(self.dataset) != self._transforms

    def reset(self) -> None:
        """End an epoch that is running; the next one takes what was changed in the meantime."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def close(self) -> None:
        """End all threads and processes. Calling it again does nothing; the loader can not be iterated over afterwards."""
        self.preparer.gatherer.stop()
        self.reset()
        self.preparer.gatherer.close()
        atexit.unregister(self.close)

    def _epoch(self) -> Iterator[Finished]:
        """Runs in the thread."""
        epoch, seen = self.order.epoch, self.order.seen
        shares = list(self.order.plan.shares(epoch, seen))
        first = len(self) - len(shares)
        before = list(chain(*islice(self.order.plan.shares(epoch), first)))
        with self._on_stream():
            self._patiently(lambda: self.preparer.begin_epoch(before))
            for number, share in enumerate(shares):
                for soon in shares[number : number + READ_AHEAD]:
                    self.preparer.gatherer.ask(soon)
                self._at = Place(epoch, first + number)
                yield self._finished(self._at, share)
            # While the run validates, what the next epoch begins with is read; after the last one in vain, which nobody knows here.
            for soon in islice(self.order.plan.shares(epoch + 1), READ_AHEAD):
                self.preparer.gatherer.ask(soon)

    def _finished(self, place: Place, indices: Share) -> Finished:
        with self._making:
            batch = self._patiently(lambda: self.preparer.make(place, indices))
        if indices.is_ghost:
            batch[GHOST] = True
        if self._stream is None:
            return Finished(batch, None)
        ready = torch.cuda.Event()
        ready.record(self._stream)
        return Finished(batch, ready)

    def _received(self, finished: Finished) -> dict[str, Any]:
        """In the consumer's thread: its stream waits for the pixels, and their memory is not given away before its kernels are through."""
        if finished.ready is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(finished.ready)
            for value in finished.batch.values():
                if isinstance(value, Tensor) and value.is_cuda:
                    value.record_stream(current)
        return finished.batch

    def _on_stream(self) -> Any:
        # Entering it makes its device the thread's current one too.
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _patiently(self, run: Callable[[], T]) -> T:
        """`run()`, a few times if the GPU has no memory for it; it may be repeated as a whole."""
        for wait_s in OUT_OF_MEMORY_WAITS_S:
            try:
                return run()
            except torch.OutOfMemoryError as error:
                warn(f"loader: out of memory ({str(error).splitlines()[0][:200]}); tried again in {wait_s:g} s")
            torch.cuda.empty_cache()
            time.sleep(wait_s)
        return run()

    def _doing(self) -> str:
        at = self._at
        return (
            "it has not begun"
            if at is None
            else f"it is at batch {at.number + 1} of {len(self)} of epoch {at.epoch + 1}"
        )

    def _report(self) -> None:
        """After an epoch: what did not go the usual way, once for each state of affairs."""
        if on_cpu := self.preparer.gatherer.on_cpu:
            kinds = ", ".join(f"{count} x {why}" for why, count in on_cpu.most_common())
            say_once(f"loader on CPU {sorted(on_cpu)}", f"loader: decoded by OpenCV instead of the GPU: {kinds}")
        if self.preparer.unreadable:
            count = len(self.preparer.unreadable)
            warn(
                f"loader: {count} picture(s) can not be read so far; others stood in for them in {self.preparer.replaced} samples"
            )
