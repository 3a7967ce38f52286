# SPDX-License-Identifier: AGPL-3.0-or-later
"""Weights that are not finite any more: nobody saves them over good ones, and all ranks go back to rank 0's last checkpoint together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from ultralytics.utils.torch_utils import unwrap_model

from yolov12.distributed import world
from yolov12.distributed.pulse import doing
from yolov12.engine import optimizer_state
from yolov12.engine.checkpoint import all_finite
from yolov12.engine.final_evaluation import brought_to_every_rank
from yolov12.log import warn
from yolov12.seams import replaced


def are_finite(*models: nn.Module) -> bool:
    """Whether their weights are, said where they are not. Waits for the GPU."""
    if all_finite([weight for model in models for weight in unwrap_model(model).parameters()]):
        return True
    warn("the weights are not finite, so last.pt stays as it was")
    return False


def recover(trainer: Any, epoch: int, by_upstream: Callable[[int], bool]) -> bool:
    """Load last.pt where ultralytics would (engine/trainer.py:1088), and where weights are not finite; whether it did. Every rank must call it.

    Rank 0 decides, by its last loss, its fitness and, but for the first epoch of a process, its weights, for which it waits for the GPU. Each rank of
    several loads rank 0's file, also one whose machine does not see its folder.

    Raises:
        RuntimeError: there is no last.pt, or this is the fourth time for one epoch.
    """
    t, is_lost = trainer, _is_lost(trainer)
    # The loss of a batch is that of the weights before its update: those of the epoch's last one nobody has seen, and the run may end here.
    unseen = not is_lost and epoch > t.start_epoch and not are_finite(t.model)
    # Ultralytics goes by loss and fitness alone, so a loss that is no number tells it.
    with replaced(t, loss=torch.tensor(float("nan")) if unseen else t.loss):
        if is_lost or unseen:
            with doing("saving the checkpoint"):
                t.saver.wait()
        if t.world.is_alone or not world.from_first((is_lost or unseen) and epoch > t.start_epoch and t.last.exists()):
            is_loaded = by_upstream(epoch)
        else:
            with brought_to_every_rank(t.last) as last, replaced(t, last=last):
                is_loaded = by_upstream(epoch)
    if is_loaded:
        optimizer_state.allocate(t.optimizer)
    return is_loaded


def _is_lost(trainer: Any) -> bool:
    """By this rank's last loss and fitness, which is what ultralytics goes by on rank 0."""
    loss, fitness = trainer.loss, trainer.fitness
    return bool((loss is not None and not loss.isfinite()) or (fitness is not None and not np.isfinite(fitness)))
