# SPDX-License-Identifier: AGPL-3.0-or-later
"""Going on with a run where its checkpoint ends, also in the middle of an epoch and between two updates.

Stock's checkpoint has the EMA and the optimizer in fp16 and the number of whole epochs; a run resumed from it begins the next epoch from the
EMA's weights. With what is saved here under `checkpoint.KEY` it goes on with the very weights, gradients, random numbers and samples.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ultralytics.utils.torch_utils import unwrap_model

from yolov12 import settings
from yolov12.declare import as_text
from yolov12.distributed.world import from_all
from yolov12.engine import pipeline, randomness
from yolov12.engine.checkpoint import KEY
from yolov12.errors import UserError
from yolov12.log import say

if TYPE_CHECKING:
    from yolov12.engine.loop import Loop
    from yolov12.engine.trainer import YOLOv12Trainer

FORM = 1
"""Of what is saved; another number is another form, which this version does not read."""
OF_THE_RUN = ("sync_bn", "grad_clip", "grad_compress", "save_steps")
"""Settings that a run is expected to go on with. ultralytics' arguments are in its checkpoint already; these are typed again."""
PIPELINE = "data_pipeline"
"""Of it what it came to is compared, once that is settled: under `auto`, a script may bring ultralytics' loader back before the first epoch."""
LOADED_FROM_ITS_PATH = "teacher_model."
"""What a model in distillation holds beside its own weights."""


def saved_by(loop: Loop, epoch: int, seen: int, batches: int) -> dict[str, Any]:
    """What goes under `KEY`. Every rank must call it: their random states are gathered.

    Args:
        epoch: in which the run goes on.
        seen: samples of that epoch that all ranks have seen together.
        batches: of that epoch, which are done.

    Raises:
        PeerFailedError: another rank did not take part.
    """
    t = loop.trainer
    plan = t.train_loader.order.plan
    weights = unwrap_model(t.model).state_dict()
    return {
        "form": FORM,
        "epoch": epoch,
        "seen": seen,
        "samples": plan.samples,
        "settings": _settings(t),
        "weights": {name: value for name, value in weights.items() if not name.startswith(LOADED_FROM_ITS_PATH)},
        "step": loop.step.kept(),
        "since_update": batches - 1 + loop.batches_per_epoch * epoch - loop.last_update,
        "loss": t.loss,
        "mean_losses": dict(t.tloss or {}) if batches else {},
        "random": from_all(randomness.states(t.device), t.vote_group),
    }


def found_in(checkpoint: dict[str, Any] | None) -> dict[str, Any] | None:
    """What was saved, or None: a checkpoint of stock's, or of another version of this package."""
    more = (checkpoint or {}).get(KEY)
    return more if isinstance(more, dict) and more.get("form") == FORM else None


def load(trainer: YOLOv12Trainer, checkpoint: dict[str, Any], more: dict[str, Any]) -> None:
    """Stands in for ultralytics' resume_training (engine/trainer.py:1128), which knows whole epochs only.

    Raises:
        UserError: all epochs are done.
    """
    t = trainer
    if more["epoch"] >= t.epochs:
        raise UserError(f"{t.args.model}: all {t.epochs} epochs of its run are done, nothing is left to resume")
    t._load_checkpoint_state(checkpoint)
    model: Any = unwrap_model(t.model)
    model.load_state_dict(more["weights"], strict=False)  # without the teacher of a distillation
    if getattr(getattr(model, "student_model", model).model[-1], "one2one_cv2", None) is not None:
        # The weights of its two losses follow the epochs (engine/trainer.py:1142).
        model.criterion = model.init_criterion()
        for _ in range(more["epoch"]):
            model.criterion.update()
    t.start_epoch = more["epoch"]


def go_on(loop: Loop, more: dict[str, Any]) -> None:
    """Put the loop at the place that was saved. Call right before its first epoch."""
    t, plan = loop.trainer, loop.trainer.train_loader.order.plan
    begun = more.get("settings", {})  # checkpoints of earlier versions have none
    for name in OF_THE_RUN:
        value = getattr(settings.current(), name)
        _tell_change(name, begun.get(name, value), value)
    if begun.get(PIPELINE) in pipeline.NAMES:
        loop.pipeline.when_settled = partial(_tell_change, PIPELINE, begun[PIPELINE])
    seen = more["seen"]
    if plan.samples != more["samples"]:
        say(
            f"resume: the data set has {plan.samples} samples, it had {more['samples']}: epoch {t.start_epoch + 1} begins anew"
        )
        seen = 0
    loop.place = (t.start_epoch, seen)
    done = loop.batches_per_epoch - plan.batches(seen)
    loop.last_update = done - 1 + loop.batches_per_epoch * t.start_epoch - more["since_update"]
    loop.step.go_on_from(more["step"])
    if more["mean_losses"] and seen:
        t.loss = more["loss"].to(t.device)
        losses = {name: value.to(t.device) for name, value in more["mean_losses"].items()}
        loop.name_losses(losses)
        t.loss_items = losses  # validation reads it, and no batch may be left before it
        loop.mean_losses = losses
    randomness.restore(more["random"], t.device, t.world.rank, max(t.world.size, 1), t.args.seed)
    whole = "" if not seen else f", after {seen} of its {plan.used} samples"
    say(f"resume: epoch {t.start_epoch + 1} of {t.epochs}{whole}")


def _tell_change(name: str, begun: Any, value: Any) -> None:
    if begun != value:
        say(
            f"WARNING resume: the run was begun with {name}={as_text(begun)}, and goes on with {name}={as_text(value)}: "
            f"type {name}={as_text(begun)} beside resume= to go on as it began"
        )


def _settings(trainer: YOLOv12Trainer) -> dict[str, Any]:
    """Of the data pipeline what it came to: `auto` may choose otherwise on another machine, and the loaders draw other random numbers."""
    current = settings.current()
    asked = {name: getattr(current, name) for name in OF_THE_RUN}
    return asked | {PIPELINE: pipeline.name_of(trainer.train_loader)}
