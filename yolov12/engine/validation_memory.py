# SPDX-License-Identifier: AGPL-3.0-or-later
"""Validation that survives running out of memory, and that all ranks leave together.

Around whatever validator a trainer has: where the forward pass, the loss or the NMS of a batch does not fit, it is made again for parts of
the batch, and the answers are put together. In evaluation an image knows nothing of its neighbours, so the metrics are those of the whole
set. Nothing of this communicates; before ranks gather what they found, they vote whether each of them has something.

A process that is asked to end leaves a validation at its next batch, and the others do after their last one: it can be made again, and may take
longer than a scheduler waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from yolov12.distributed.vote import Wish, vote
from yolov12.engine.loss_count import counter_for
from yolov12.errors import DeviceFullError, PeerFailedError
from yolov12.log import warn
from yolov12.memory.failure import WAITS_S, is_out_of_memory, one_line, release_memory
from yolov12.memory.history import History
from yolov12.memory.micro_batch import split
from yolov12.seams import Seam

SEAMS = (
    # Calls preprocess, the model, its loss, postprocess and gather_stats, each once per batch or run; init_metrics is handed the model.
    Seam("engine/validator.py", 151, "ultralytics.engine.validator.BaseValidator.__call__", "29da273b2118"),
)

T = TypeVar("T")


class ValidationLeft(Exception):
    """A validation was left undone, by all ranks, because one of them is asked to end."""


def _nobody_asks() -> bool:
    return False


@contextmanager
def surviving(
    validator: Any,
    history: History,
    group: dist.ProcessGroup | None = None,
    is_asked_to_end: Callable[[], bool] = _nobody_asks,
) -> Iterator[None]:
    """Validations by this validator inside the block are made in smaller parts where memory asks for it.

    Args:
        validator: of a detection trainer.
        history: where repeated batches are noted.
        group: for votes, if all its ranks validate; None for a single process, or where one rank validates alone.
        is_asked_to_end: whether this process is; asked before each batch.

    Raises:
        DeviceFullError: a single image does not fit.
        ValidationLeft: this process, or another rank, is asked to end.
        PeerFailedError: another rank failed.
    """
    guard = _Guard(validator, history, group, is_asked_to_end)
    with ExitStack() as restored:
        guard.stand_in(restored)
        try:
            yield
        except PeerFailedError:
            raise
        except ValidationLeft:
            guard.tell(None)
            raise
        except Exception as error:
            guard.tell(one_line(error))
            raise


class _Guard:
    """One validator's stand-ins."""

    def __init__(
        self,
        validator: Any,
        history: History,
        group: dist.ProcessGroup | None,
        is_asked_to_end: Callable[[], bool],
    ) -> None:
        self.validator, self.history, self.group, self.is_asked_to_end = validator, history, group, is_asked_to_end
        self.parts = 1
        """Into how many a batch is cut; for the rest of this validation, once one did not fit."""
        self.model: Any = None
        self.peers_wait = False
        """Whether the other ranks will wait for this one's vote."""

    def stand_in(self, restored: ExitStack) -> None:
        v = self.validator
        init_metrics, preprocess, postprocess, gather_stats = (
            v.init_metrics,
            v.preprocess,
            v.postprocess,
            v.gather_stats,
        )

        def begin(model: nn.Module) -> None:
            init_metrics(model)
            self.peers_wait, self.parts = self.group is not None, 1
            self._stand_in_for_model(model, restored)

        settle = getattr(
            v, "settle", None
        )  # our validator's; it may fail for want of memory, and then the others must hear of it

        def prepare(batch: dict[str, Any]) -> Any:
            if self.is_asked_to_end():
                raise ValidationLeft
            return self._until_it_fits(1, lambda _: preprocess(batch))

        def end() -> None:
            if settle is not None:
                settle()
            self.tell(None)
            gather_stats()

        _replace(
            restored,
            v,
            init_metrics=begin,
            preprocess=prepare,
            postprocess=lambda predictions: self._postprocess(postprocess, predictions),
            gather_stats=end,
        )

    def tell(self, failure: str | None) -> None:
        """Vote, if that is still to be done.

        Raises:
            PeerFailedError: this rank made it and another did not.
            ValidationLeft: a rank is asked to end.
        """
        if not self.peers_wait:
            return
        self.peers_wait = False
        verdict = vote(failure, self.group, Wish.TERMINATE if self.is_asked_to_end() else Wish.GO_ON)
        if failure is not None:
            return
        if not verdict.all_succeeded:
            raise PeerFailedError(f"validation stopped because another process failed, {verdict.first()}")
        if verdict.wish is Wish.TERMINATE:
            raise ValidationLeft

    def _stand_in_for_model(self, model: Any, restored: ExitStack) -> None:
        if model is self.model:  # as in an earlier validation in the same block
            return
        self.model = model
        forward: Any = model.forward

        def forward_in_parts(img: Tensor, *args: Any, **kwargs: Any) -> Any:
            def run(parts: int) -> Any:
                if parts == 1:
                    return forward(img, *args, **kwargs)
                return joined([forward(part, *args, **kwargs) for part in img.tensor_split(parts)])

            return self._until_it_fits(len(img), run)

        _replace(restored, model, forward=forward_in_parts)
        if hasattr(model, "loss"):  # else it is a final evaluation's, which computes none
            loss = model.loss

            def loss_in_parts(batch: dict[str, Any], predictions: Any) -> Any:
                def run(parts: int) -> Any:
                    if parts == 1:
                        return loss(batch, predictions)
                    return _loss_of_parts(model, loss, batch, predictions, parts)

                return self._until_it_fits(len(batch["img"]), run)

            _replace(restored, model, loss=loss_in_parts)

    def _postprocess(self, postprocess: Callable[[Any], list], predictions: Any) -> list:
        images = _images(predictions)

        def run(parts: int) -> list:
            if parts == 1:
                return postprocess(predictions)
            return [image for part in _slices(images, parts) for image in postprocess(sliced(predictions, part))]

        return self._until_it_fits(images, run)

    def _until_it_fits(self, images: int, run: Callable[[int], T]) -> T:
        """`run(parts)` with more and more parts."""
        waits_s = iter(WAITS_S)
        while True:
            parts = min(self.parts, images)
            try:
                return run(parts)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                failure = one_line(error)
            # Outside of `except`, where the failed pass's activations are no longer held.
            release_memory()
            if parts < images:
                self.parts = min(2 * parts, images)
                change = f"in parts {parts} -> {self.parts}"
            elif (wait_s := next(waits_s, None)) is not None:
                change = f"in {wait_s:g} s"
                time.sleep(wait_s)
            else:
                raise DeviceFullError(
                    f"out of memory in validation with one image at a time ({failure}); use a smaller imgsz or model, or free the device's memory"
                )
            self.history.note("validation", f"{change} ({failure})")
            warn(f"out of memory in validation ({failure}); the batch is validated again, {change}")


def joined(parts: list[Any]) -> Any:
    """Predictions of parts of a batch as those of the whole: tensors along their first dimension, inside dicts, lists and tuples."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, dict):
        return {key: joined([part[key] for part in parts]) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(joined(list(same)) for same in zip(*parts, strict=True))
    return first


def sliced(predictions: Any, part: slice) -> Any:
    """The predictions of some images, as views."""
    if isinstance(predictions, Tensor):
        return predictions[part]
    if isinstance(predictions, dict):
        return {key: sliced(value, part) for key, value in predictions.items()}
    if isinstance(predictions, (list, tuple)):
        return type(predictions)(sliced(value, part) for value in predictions)
    return predictions


def _loss_of_parts(model: Any, loss: Any, batch: dict[str, Any], predictions: Any, parts: int) -> Any:
    """The loss of the whole batch from those of its parts: sums and target counts add up (loss_count.py), else images weigh alike."""
    if getattr(model, "criterion", None) is None:  # as upstream does at the first loss
        model.criterion = model.init_criterion()
    counter = counter_for(model.criterion)
    images = len(batch["img"])
    sums: dict[str, Any] = {}
    targets: Any = 0
    try:
        for part, where in zip(split(batch, parts), _slices(images, parts), strict=True):
            _, items = loss(part, sliced(predictions, where))
            divisor, count = (counter.divisor, counter.count) if counter else (len(part["img"]),) * 2
            targets = targets + count
            for name, item in items.items():
                sums[name] = sums.get(name, 0) + item * divisor
    finally:
        if counter:
            counter.close()
    whole = targets.clamp(min=1) if counter else targets
    items = {name: total / whole for name, total in sums.items()}
    return torch.stack(list(items.values())) * images, items


def _slices(images: int, parts: int) -> list[slice]:
    """Where `split` cuts."""
    edges = [images * i // parts for i in range(parts + 1)]
    return [slice(first, end) for first, end in pairwise(edges)]


def _images(predictions: Any) -> int:
    while not isinstance(predictions, Tensor):
        predictions = next(iter(predictions.values())) if isinstance(predictions, dict) else predictions[0]
    return len(predictions)


def _replace(restored: ExitStack, owner: Any, **functions: Callable[..., Any]) -> None:
    """Put functions over an object's own methods until the stack is left; nothing of them stays in the object, which may be pickled."""
    for name, function in functions.items():
        if name in vars(owner):  # a script put something there itself
            restored.callback(setattr, owner, name, vars(owner)[name])
        else:
            restored.callback(delattr, owner, name)
        setattr(owner, name, function)
