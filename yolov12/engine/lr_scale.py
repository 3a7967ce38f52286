# SPDX-License-Identifier: AGPL-3.0-or-later
"""`lr_scale=linear`: the learning rate grows with the images of an update, as in Goyal et al. 2017 (arXiv:1706.02677); only when asked for.

The base is `nbs`, ultralytics' nominal batch, for which its lr0 is meant: smaller batches are gathered until an update has about that many images
(engine/trainer.py:321). Larger ones keep their lr0 there, and their weight decay grows instead (engine/trainer.py:322), so that as much is
taken from the weights in an epoch, of which there are fewer updates. With a learning rate that grows, that would be too much: the decay is put back.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from yolov12 import settings
from yolov12.log import say
from yolov12.seams import Seam

SEAMS = (Seam("engine/trainer.py", 1155, "ultralytics.engine.trainer.BaseTrainer.build_optimizer", "108f7055e600"),)


def scale_if_asked(optimizer: Optimizer, trainer: Any) -> Optimizer:
    """The optimizer, its groups' learning rates times images of an update / nbs and their decay divided by it where the user asks for that; said.

    The arguments keep the lr0 that was typed, or that optimizer=auto chose: a resumed run reads them, and scales once.

    Args:
        optimizer: just made; without a scheduler yet.
        trainer: with `args`, `batch_size` over all ranks, and `accumulate`.
    """
    if settings.current().lr_scale == "none":
        return optimizer
    args, images = trainer.args, int(trainer.batch_size * trainer.accumulate)
    batches = f"batch={trainer.batch_size:g}" + (f" x {trainer.accumulate}" if trainer.accumulate > 1 else "")
    base = f"lr_scale: linear: an update has {images} images ({batches}), and the base is nbs={args.nbs}"
    if images == args.nbs:
        say(f"{base}: lr0={args.lr0:g} stays")
        return optimizer
    factor = images / args.nbs
    for group in optimizer.param_groups:
        group["lr"] *= factor
        group["weight_decay"] /= factor
    name = type(optimizer).__name__
    say(
        f"{base}: lr0 x {factor:g}: {args.lr0:g} -> {args.lr0 * factor:g}; weight decay as at the base, {args.weight_decay:g}; "
        f"warm-up kept ({args.warmup_epochs:g} epochs, biases from {args.warmup_bias_lr:g})"
        + ("" if "SGD" in name else f". The rule is SGD's; this is {name}")
    )
    return optimizer


def go_on_as_begun(trainer: Any) -> None:
    """After a checkpoint was loaded: the schedule follows its optimizer's learning rates, whatever `lr_scale` says now.

    ultralytics makes the schedule before it loads them.
    """
    planned, groups = trainer.scheduler.base_lrs, trainer.optimizer.param_groups
    begun = [group.get("initial_lr", base) for group, base in zip(groups, planned, strict=True)]
    if begun == planned:
        return
    share = begun[0] / planned[0]
    say(
        f"lr_scale: the run goes on with the learning rate that it began with, {share:g} times what its arguments say now"
    )
    trainer.scheduler.base_lrs = begun
