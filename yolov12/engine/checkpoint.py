# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a checkpoint of an unfinished run holds, gathered without waiting for each tensor, and written by any thread.

    as stock's   the same as ultralytics' (engine/trainer.py:768): EMA and optimizer in fp16. best.pt and epochN.pt are such files.
    in full      EMA and optimizer in fp32, and under the key `KEY` what else going on needs (resume.py). last.pt is such a file.

Stock loads and resumes from both (promise 5), and this package from stock's.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from ultralytics import __version__
from ultralytics.utils import GIT
from ultralytics.utils.torch_utils import unwrap_model

from yolov12.engine.hostcopy import Copies
from yolov12.engine.packing import Packed
from yolov12.model.seal import seal
from yolov12.seams import Seam, replaced
from yolov12.wholefile import replacing

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

KEY = "yolov12"
"""Where a checkpoint has what stock's lacks. Stock passes over it."""
IN_FULL = ("step", "exp_avg", "exp_avg_sq", "square_avg")
"""What of an optimizer's state stays in fp32 in stock's files."""


class Checkpoint:
    """The run as it stands now, in host memory: training may go on while it is written.

    Args:
        trainer: the run.
        more: what goes under `KEY`; None leaves the key out.
        epoch: the last one that is whole, as stock's readers understand it.
    """

    def __init__(self, trainer: YOLOv12Trainer, more: dict[str, Any] | None = None, epoch: int | None = None) -> None:
        t, ema = trainer, trainer.ema.ema
        averages = [*ema.parameters(), *ema.buffers()]
        if not all_finite(averages):
            _heal(ema, unwrap_model(t.model))
        optimizer = t.optimizer.state_dict()
        content = {
            "epoch": t.epoch if epoch is None else epoch,
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
        self._copies = Copies()
        self._averages = self._copies.add((tensor for tensor in averages if tensor.is_floating_point()), torch.float32)
        # As ultralytics has them (engine/trainer.py:786): averages contiguous, an optimizer's state with the strides of the parameters. Stock resumes
        # from these too, and on a GPU torch's fused Adam takes no others.
        self._rounded = self._copies.add(_stored_as_fp16(optimizer), as_they_lie=True)
        self._copies.add([*averages, *_tensors(optimizer["state"])], as_they_lie=True)
        joined = self._copies.add(_tensors(more))
        without_loss = {"criterion": None} if hasattr(ema, "criterion") else {}
        with replaced(ema, **without_loss):
            entry = None if more is None else (KEY, more)
            self._packed = Packed(content, self._copies, [*self._averages, *self._rounded], joined, entry)

    def write_in_full(self, path: Path) -> None:
        """Raises what `replacing` does; `path` is as before then."""
        self._write(path, self._copies.flats, with_more=True)

    def write_as_stock(self, path: Path) -> None:
        """Raises what `replacing` does; `path` is as before then."""
        flats = list(self._copies.flats)
        for number in self._averages:
            flats[number] = torch.nan_to_num_(flats[number].half())  # what fp16 can not hold becomes its largest number
        for number in self._rounded:
            flats[number] = flats[number].half()
        self._write(path, flats, with_more=False)

    def _write(self, path: Path, flats: list[Tensor], with_more: bool) -> None:
        with replacing(path) as part:
            self._packed.save(part, flats, with_more)
            seal(part)


def all_finite(tensors: list[Tensor]) -> bool:
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


def _stored_as_fp16(optimizer: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors of an optimizer's state whose fp32 becomes fp16 in stock's files."""
    for state in optimizer["state"].values():
        for name, value in state.items():
            if isinstance(value, Tensor) and name not in IN_FULL and value.dtype is torch.float32:
                yield value


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dictionaries and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
