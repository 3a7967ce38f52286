# SPDX-License-Identifier: AGPL-3.0-or-later
"""The GPU begins with the next batch of files before Python makes the results of this one (not with YOLOV12_PREDICT_AHEAD=0).

ultralytics' loop (engine/predictor.py:376) is as it was, with its callbacks, files and lines: only what it goes through gives out a batch once the
work for the one after it (upload, network, NMS, boxes to the host) is in the GPU's queue. When the loop comes to that batch, the predictor's
`preprocess`, `inference` and `postprocess` find their answers there. One batch is ahead, never two.

Whoever could tell keeps it from happening: callbacks, hooks, methods of a subclass (`why_not`). And a batch whose arguments or weights were changed
after it was begun, by who takes the results of a stream, is done again in its turn (`Launched.state`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import ultralytics.engine.predictor as upstream
from torch import Tensor

from yolov12.engine.scoring.asked import Asked
from yolov12.log import say_once
from yolov12.memory.failure import one_line
from yolov12.seams import Seam

SEAMS = (
    # What is put around it.
    Seam("engine/predictor.py", 80, "ultralytics.engine.predictor._prefetch", "1352d1280b43"),
)

EVENTS = ("on_predict_batch_start", "on_predict_postprocess_end", "on_predict_batch_end")
"""Between two batches: their callbacks may look at the predictor, or change what the next batch is predicted with. A tracker has one."""
METHODS = {"preprocess", "pre_transform", "inference", "postprocess"}
"""Of a predictor, which a subclass or a tracker may replace: called in a batch's turn, they may look at the batch before."""
Item = tuple[Any, Any]
"""A batch, and its source as it was then."""

_upstream_prefetch = upstream._prefetch


@dataclass
class Launched:
    """A batch's work that is in the GPU's queue. All of it is in memory of its own: graphs write their next answers over the last."""

    state: tuple[Asked, Hashable]
    """What it depends on beside the pictures: what is asked, and the state of the network."""
    im: Tensor
    prediction: Tensor
    answer: Tensor
    """(images, most + 1, 6) as `fixed_nms` has it, in the pixels of the pictures."""
    on_host: Tensor
    """The same, once the last of `marks` was reached."""
    marks: tuple[Any, Any, Any, Any]
    """Before preprocessing, and after it, the network and the rest; None without a GPU."""

    def wait(self) -> Tensor:
        """`on_host`, when it is there."""
        if self.marks[3] is not None:
            self.marks[3].synchronize()
        return self.on_host


def install(wanted: bool) -> None:
    """Have ultralytics go through batches with the next one begun, where their source asks for it. May be called again."""
    upstream._prefetch = prefetch if wanted else _upstream_prefetch


def prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """What ultralytics' `_prefetch` gives, each batch once the one after it is launched.

    A batch that is not launched waits for nothing. What fails in reading the next one fails after the results of this one.
    """
    batches = _upstream_prefetch(items)
    waiting: Item | None = None
    try:
        while True:
            try:
                item = next(batches, None)
            except Exception:
                if waiting is not None:
                    yield waiting
                raise
            is_launched = item is not None and _launch(*item)
            if waiting is not None:
                yield waiting
            if item is None:
                return
            waiting = item if is_launched else None
            if not is_launched:
                yield item
    finally:
        batches.close()


def _launch(batch: Any, source: Any) -> bool:
    launch: Callable[[Any], bool] | None = getattr(source, "launch", None)
    return launch is not None and launch(batch[1])


def why_not(predictor: Any, ours: type) -> str | None:
    """Why no batch may be begun before its turn now; None if nobody can tell.

    Args:
        predictor: one that is used, of this class or one made from it.
        ours: the class whose `METHODS` are known not to look at the batch before.
    """
    if predictor.fast.not_ahead is not None:
        return str(predictor.fast.not_ahead)
    if (event := next(filter(predictor.is_heard, EVENTS), None)) is not None:
        return f"a callback on {event}"
    args = predictor.args
    if args.augment or args.embed or args.visualize or getattr(predictor, "_feats", None) is not None:
        return "more than boxes is asked for"
    if others := vars(predictor).keys() & METHODS or _others(type(predictor), ours):
        return f"another {min(others)}"
    reason: str | None = predictor.fast.network.why_never()
    return reason


def _others(made: type, ours: type) -> set[str]:
    """Which of `METHODS` a class has of its own."""
    if made is ours:
        return set()
    return {name for name in METHODS if getattr(made, name) is not getattr(ours, name)}


def attempt(launch: Callable[[], Launched]) -> tuple[Launched | None, str | None]:
    """What it returns; or why it failed: memory did not suffice for two batches, say. The batch can still be done in its turn."""
    try:
        return launch(), None
    except Exception as error:  # noqa: BLE001  # whatever it is, it comes again in the batch's turn if it is not about being ahead
        return None, one_line(error)


def say_why_not(reason: str) -> None:
    """Once for each reason."""
    say_once(f"not ahead: {reason}", f"predict: no batch is begun before its turn: {reason}")


def to_host(answer: Tensor) -> Tensor:
    """A copy in page-locked memory, which is there once the queue has come so far."""
    on_host = torch.empty(answer.shape, dtype=answer.dtype, pin_memory=answer.is_cuda)
    return on_host.copy_(answer, non_blocking=True)
