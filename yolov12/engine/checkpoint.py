# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a checkpoint of an unfinished run holds: the same as ultralytics' (engine/trainer.py:768), gathered without waiting for each tensor.

Stock loads and resumes from it (promise 5), and this package from stock's.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from ultralytics import __version__
from ultralytics.utils import GIT
from ultralytics.utils.torch_utils import unwrap_model

from yolov12.engine.hostcopy import fetch, serialize
from yolov12.seams import Seam, replaced

if TYPE_CHECKING:
    from yolov12.engine.trainer import YOLOv12Trainer

SEAMS = (
    Seam("engine/trainer.py", 768, "ultralytics.engine.trainer.BaseTrainer.save_model", "47f61ede98e6"),
    Seam(
        "utils/torch_utils.py",
        963,
        "ultralytics.utils.torch_utils.convert_optimizer_state_dict_to_fp16",
        "d690952e1e1d",
    ),
)

IN_FULL = ("step", "exp_avg", "exp_avg_sq", "square_avg")
"""What of an optimizer's state stays in fp32."""


def packed(trainer: YOLOv12Trainer) -> bytes:
    """The bytes of last.pt as the run stands now."""
    t, ema = trainer, trainer.ema.ema
    weights = [*ema.parameters(), *ema.buffers()]
    if not _all_finite(weights):
        _heal(ema, unwrap_model(t.model))
    copies = fetch(weights, torch.float16)
    for copy in copies.values():
        if copy.is_floating_point():
            torch.nan_to_num_(copy.data)  # what fp16 can not hold becomes its largest number
    optimizer = t.optimizer.state_dict()
    copies |= fetch(_optimizer_tensors(optimizer, in_full=False), torch.float16)
    copies |= fetch(_optimizer_tensors(optimizer, in_full=True))
    content = {
        "epoch": t.epoch,
        "best_fitness": t.best_fitness,
        "stopper": {"best_fitness": t.stopper.best_fitness, "best_epoch": t.stopper.best_epoch},
        "model": None,
        "ema": ema,
        "updates": t.ema.updates,
        "modelopt": None,
        "optimizer": optimizer,
        "scaler": t.scaler.state_dict(),
        "train_args": vars(t.args),
        "train_metrics": {**t.metrics, "fitness": t.fitness},
        "train_results": t.read_results_csv(),
        "date": datetime.now().astimezone().isoformat(),
        "version": __version__,
        "git": {name: getattr(GIT, name) for name in ("branch", "commit", "message", "origin")}
        | {"root": str(GIT.root)},
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
    }
    without_loss = {"criterion": None} if hasattr(ema, "criterion") else {}
    with replaced(ema, **without_loss):
        return serialize(content, copies)


def _all_finite(tensors: list[Tensor]) -> bool:
    """One answer for all of them, so one wait for the GPU."""
    floats = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    # A sum of squares is finite only where all numbers are; one too large to be squared is worth the closer look that follows.
    return bool(torch.stack(torch._foreach_norm(floats)).isfinite().all())


def _heal(ema: torch.nn.Module, model: torch.nn.Module) -> None:
    """A NaN in an average stays for ever: begin it anew from the live model where that is finite (engine/trainer.py:780)."""
    live = model.state_dict()
    for name, average in ema.state_dict().items():
        if isinstance(average, Tensor) and not average.isfinite().all() and live[name].isfinite().all():
            average.copy_(live[name])


def _optimizer_tensors(state_dict: dict[str, Any], in_full: bool) -> Iterator[Tensor]:
    """The tensors of an optimizer's state: those that are kept `in_full`, or those whose fp32 becomes fp16."""
    for state in state_dict["state"].values():
        for name, value in state.items():
            if isinstance(value, Tensor) and in_full == (name in IN_FULL or value.dtype is not torch.float32):
                yield value
