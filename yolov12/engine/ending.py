# SPDX-License-Identifier: AGPL-3.0-or-later
"""How a run ends when a scheduler takes the machine away: every rank after the same step, and with a checkpoint of that step on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import is_qat

from yolov12 import settings
from yolov12.distributed.pulse import doing
from yolov12.distributed.vote import vote
from yolov12.engine import resume
from yolov12.errors import TERMINATED, ExitError, PeerFailedError
from yolov12.log import say

if TYPE_CHECKING:
    from yolov12.engine.loop import Loop


def in_epoch(loop: Loop, batches: int) -> NoReturn:
    """End in the middle of an epoch, of which so many batches are done. Every rank must call it.

    Raises:
        SystemExit, RetryableError: as `after_epoch`.
    """
    failure: ExitError | None = None
    try:
        is_saved = save(loop, batches)
    except ExitError as error:
        is_saved, failure = False, error
    when = f"after step {batches} of {loop.batches_per_epoch} of epoch {loop.trainer.epoch + 1}"
    after_epoch(loop, when, is_saved, failure)


def save(loop: Loop, batches: int) -> bool:
    """Begin to write last.pt in the middle of an epoch, of which so many batches are done. Every rank must call it.

    Returns:
        False where that is not done: not wanted, the model is one for which it can not be, or its weights are not finite.

    Raises:
        RetryableError: on rank 0, where the disk was full for the save before.
    """
    t = loop.trainer
    more = resume.saved_by(loop, t.epoch, _seen_after(loop, batches), batches)
    if not t.args.save or is_qat(t.ema.ema):
        return False
    if RANK in {-1, 0}:
        with doing("saving the checkpoint"):
            return t.save_last(more)
    return True


def after_epoch(loop: Loop, when: str, is_saved: bool, failure: ExitError | None = None) -> NoReturn:
    """End once the checkpoint is on disk. Every rank must call it.

    Args:
        when: for the last line.
        is_saved: whether there will be a checkpoint.
        failure: why it could not be begun.

    Raises:
        SystemExit: always, unless the checkpoint could not be saved.
        RetryableError: that, here or on rank 0.
    """
    t = loop.trainer
    try:
        with doing("saving the checkpoint"):
            t.saver.wait()
    except ExitError as error:
        failure = failure or error
    # The others stay until it is on disk: a launcher ends all when the first has gone.
    verdict = vote(None if failure is None else str(failure), t.vote_group)
    if failure is not None:
        raise failure
    if not verdict.all_succeeded:
        raise PeerFailedError(f"terminated {when}, and the checkpoint was not saved: {verdict.first()}")
    tell_cost(loop)
    saved = (
        f"go on with resume={t.last}"
        if is_saved
        else "it was not saved (save=False, a model in quantisation, or weights that are not finite)"
    )
    say(f"terminated {when}; {saved}")
    raise SystemExit(TERMINATED)


def tell_cost(loop: Loop) -> None:
    """Every rank must call it."""
    t, price = loop.trainer, settings.current().price_per_gpu_hour
    waits_s = loop.data_wait.total_s, loop.step.waited_s
    loop.cost.finish(*waits_s, t.save_dir, t.vote_group, price, resumed=bool(t.resume))


def _seen_after(loop: Loop, batches: int) -> int:
    """Samples of this epoch that all ranks have seen together, when so many of its batches are done."""
    plan, seen = loop.trainer.train_loader.order.plan, loop.seen_before
    return plan.seen_after(seen, batches - (loop.batches_per_epoch - plan.batches(seen)))
