# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a run does about memory before its first step, and what it says when nothing helps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from ultralytics.utils.torch_utils import unwrap_model

from yolov12 import settings
from yolov12.distributed.vote import vote
from yolov12.engine.auto_batch import most_boxes
from yolov12.engine.failure import explain, largest_kept, totals
from yolov12.engine.fit import channels_of
from yolov12.engine.layers import names_of
from yolov12.engine.recompute import Recomputation
from yolov12.engine.step import Step
from yolov12.errors import DeviceFullError, UserError
from yolov12.memory.failure import is_out_of_memory, one_line

if TYPE_CHECKING:
    from yolov12.engine.trainer import YOLOv12Trainer


def recomputation_of(trainer: YOLOv12Trainer) -> Recomputation | None:
    """None under torch.compile, which decides itself what to keep, and where batch norm is synchronised.

    Raises:
        UserError: `disable_mas_layers` names a layer that there is not; without recomputation, too.
    """
    if trainer.args.compile or trainer.norms_are_synchronised:
        names_of(unwrap_model(trainer.model), settings.current().disable_mas_layers)
        return None
    return Recomputation(
        unwrap_model(trainer.model),
        trainer.device,
        trainer.amp_dtype or torch.float32,
        settings.current(),
        read_memory=None if trainer.card is None else trainer.card.read,
        history=trainer.history,
        most_boxes=most_boxes(trainer.train_loader.dataset, trainer.args.mosaic),
        cache=settings.cache_dir() / "memory" if trainer.device.type == "cuda" else None,
    )


def refuse_what_can_not_fit(trainer: YOLOv12Trainer, step: Step) -> None:
    """Before the first epoch, all ranks together.

    Raises:
        UserError: on one of them not even one image fits.
    """
    recomputation, smaller = step.recomputation, step.last_resort.images
    images = max(int(trainer.batch_size) // max(trainer.world_size, 1), 1)
    side = trainer.args.imgsz if smaller is None else smaller.least_px
    shape = (images, channels_of(unwrap_model(trainer.model)), side, side)
    reason = None if recomputation is None else recomputation.why_not_one_image(shape)
    verdict = vote(reason, trainer.vote_group)
    if not verdict.all_succeeded:
        raise UserError(verdict.first() if trainer.vote_group else str(reason))


@contextmanager
def explained(trainer: YOLOv12Trainer, step: Step) -> Iterator[None]:
    """Whatever ends a run inside for want of memory says what memory went to. A step that did not fit with one image has said it already.

    Raises:
        DeviceFullError: with that.
    """
    try:
        yield
    except DeviceFullError as error:
        raise DeviceFullError(f"{error}{explain_failure(trainer, step.recomputation)}") from None
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        told = explain_failure(trainer, step.recomputation)
        advice = "use a smaller batch, imgsz or model, or free the device's memory"
        raise DeviceFullError(f"out of memory outside of a step ({one_line(error)}); {advice}{told}") from error


def explain_failure(trainer: YOLOv12Trainer, recomputation: Recomputation | None) -> str:
    """What memory went to: the largest tensors of a step by the plan, if there is one, and what the run holds besides."""
    known = recomputation.known if recomputation else None
    kept = largest_kept(known.profile, recomputation.plan) if recomputation and known else []
    models = totals(unwrap_model(trainer.model), trainer.optimizer, trainer.ema.ema)
    return explain(trainer.device, trainer.save_dir, [*kept, *models])
