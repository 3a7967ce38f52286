# SPDX-License-Identifier: AGPL-3.0-or-later
"""What our `YOLO` does before ultralytics' own: names, devices, settings given as arguments, and the choice of trainer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from yolov12 import settings
from yolov12.errors import UserError
from yolov12.log import say
from yolov12.seams import Seam

SEAMS = (
    Seam("models/yolo/model.py", 60, "ultralytics.models.yolo.model.YOLO.__init__", "fe8f932a2cd9"),
    Seam("models/yolo/model.py", 99, "ultralytics.models.yolo.model.YOLO.task_map", "e4472cd8a5c4"),
    Seam("engine/model.py", 807, "ultralytics.engine.model.Model.train", "478371e11f2a"),
)


class YOLOv12Mixin:
    """Goes in front of `ultralytics.YOLO` (compat.py makes the class)."""

    # Set by ultralytics (engine/model.py:88).
    ckpt: dict[str, Any] | None
    ckpt_path: str | None
    model_name: str | None
    model: Any

    def __init__(self, model: Any = "yolo26n.pt", task: str | None = None, verbose: bool = False) -> None:
        from yolov12.engine.patches import install_patches
        from yolov12.model import names

        install_patches()
        settings.check_unknown(os.environ, strict=False)
        if isinstance(model, (str, Path)):
            model = names.resolve(str(model))
        super().__init__(model=model, task=task, verbose=verbose)  # type: ignore[call-arg]  # the base is ultralytics' YOLO

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """ultralytics' table with our trainer for detection; other tasks train as they do in stock."""
        from yolov12.engine.trainer import YOLOv12Trainer

        table = super().task_map  # type: ignore[misc]
        return {**table, "detect": {**table["detect"], "trainer": YOLOv12Trainer}}

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        """`ultralytics.YOLO.train` that also takes our settings as arguments (docs/settings.md) and `device="auto"`.

        Raises:
            UserError: `resume=True` on weights that are no unfinished run. ultralytics would begin a new run on a data set of its own choice,
                and download it.
        """
        if kwargs.get("resume") is True and not _is_unfinished(self.ckpt):
            raise UserError(
                f"resume=True: {self.ckpt_path or self.model_name} is not the checkpoint of an unfinished run; "
                "load the run's weights/last.pt, or leave resume out and name data= for a new run"
            )
        asked = kwargs | _checkpoint_of(self.model, kwargs)
        return super().train(trainer=trainer, **_with_device(settings.apply_script_arguments(asked)))  # type: ignore[misc]

    def val(self, validator: Any = None, **kwargs: Any) -> Any:
        """`ultralytics.YOLO.val` that also takes `device="auto"`."""
        return super().val(validator=validator, **_with_device(kwargs, count=1))  # type: ignore[misc]

    def predict(self, source: Any = None, stream: bool = False, predictor: Any = None, **kwargs: Any) -> Any:
        """`ultralytics.YOLO.predict` that also takes `device="auto"`."""
        return super().predict(source, stream, predictor=predictor, **_with_device(kwargs, count=1))  # type: ignore[misc]

    def export(self, **kwargs: Any) -> str:
        """`ultralytics.YOLO.export` that also takes `device="auto"`."""
        return super().export(**_with_device(kwargs, count=1))  # type: ignore[misc]


def _is_unfinished(checkpoint: dict[str, Any] | None) -> bool:
    """Whether a checkpoint holds what resuming needs (ultralytics engine/model.py:877)."""
    known = checkpoint or {}
    return known.get("epoch", -1) >= 0 and known.get("optimizer") is not None


def _checkpoint_of(model: Any, kwargs: dict[str, Any]) -> dict[str, str]:
    """The argument `checkpoint` that a script means by `model.model.gradient_checkpointing = True` or `False`; nothing if it says neither.

    Training makes a model of its own from this one (ultralytics engine/model.py:885), so the attribute would be lost on the way.
    """
    asked = getattr(model, "gradient_checkpointing", None)
    if asked is None:
        return {}
    if not isinstance(asked, bool):
        raise UserError(f"gradient_checkpointing={asked!r}: expected True or False")
    meant = "all" if asked else "0"
    if kwargs.get("checkpoint") is not None:
        say(f"gradient_checkpointing={asked}: checkpoint={kwargs['checkpoint']} of model.train counts")
        return {}
    say(f"gradient_checkpointing={asked}: checkpoint={meant}")
    return {"checkpoint": meant}


def _with_device(kwargs: dict[str, Any], count: int | None = None) -> dict[str, Any]:
    """Replace `device="auto"` by what it means here; the first `count` GPUs where a verb uses no more."""
    if kwargs.get("device") != "auto":
        return kwargs
    from yolov12.distributed import devices, world

    device, reason = devices.auto(devices.visible_gpus(), world.from_environment().local_size)
    if count is not None:
        device = ",".join(device.split(",")[:count])
    say(f"device: {device} ({reason})")
    return {**kwargs, "device": device}
