# SPDX-License-Identifier: AGPL-3.0-or-later
"""What our `YOLO` does before ultralytics' own: names, devices, settings given as arguments, and the choice of trainer."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yolov12 import recipes, settings
from yolov12.distributed import devices, launchers, ranks
from yolov12.distributed.devices import requested_gpus
from yolov12.errors import UserError
from yolov12.log import say, warn
from yolov12.seams import Seam, replaced

SEAMS = (
    Seam("models/yolo/model.py", 60, "ultralytics.models.yolo.model.YOLO.__init__", "fe8f932a2cd9"),
    Seam("models/yolo/model.py", 99, "ultralytics.models.yolo.model.YOLO.task_map", "e4472cd8a5c4"),
    Seam("engine/model.py", 1183, "ultralytics.engine.model.Model._smart_load", "bedf675ecc25"),
    Seam("engine/model.py", 807, "ultralytics.engine.model.Model.train", "478371e11f2a"),
)


def _trainer() -> Any:
    from yolov12.engine.trainer import YOLOv12Trainer

    return YOLOv12Trainer


def _validator() -> Any:
    from yolov12.engine.validator import YOLOv12Validator

    return YOLOv12Validator


def _predictor() -> Any:
    from yolov12.engine.predictor import YOLOv12Predictor

    return YOLOv12Predictor


OF_DETECTION = {"trainer": _trainer, "validator": _validator, "predictor": _predictor}
"""What imports our classes, each when it is needed."""


class YOLOv12Mixin:
    """Goes in front of `ultralytics.YOLO` (compat.py makes the class)."""

    # Set by ultralytics (engine/model.py:88).
    ckpt: dict[str, Any] | None
    ckpt_path: str | None
    model_name: str | None
    overrides: dict[str, Any]
    model: Any
    task: str

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
        """ultralytics' table with our trainer, validator and predictor for detection; other tasks run as they do in stock."""
        table = super().task_map  # type: ignore[misc]
        ours = {key: load() for key, load in OF_DETECTION.items()}
        return {**table, "detect": {**table["detect"], **ours}}

    def _smart_load(self, key: str) -> Any:
        """As ultralytics' (engine/model.py:1183), without importing the trainer for a prediction: that takes longer than reading a small model."""
        is_table_ours = type(self).task_map is YOLOv12Mixin.task_map  # who derives a class may have his own
        if is_table_ours and self.task == "detect" and key in OF_DETECTION:
            return OF_DETECTION[key]()
        return super()._smart_load(key)  # type: ignore[misc]

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:
        """`ultralytics.YOLO.train` that also takes our settings as arguments (docs/settings.md), `recipe=` (docs/recipes.md) and `device="auto"`.

        Raises:
            UserError: `resume=True` on weights that are no unfinished run (ultralytics would begin a new run on a data set of its own choice,
                and download it), a recipe beside `resume=` or that there is none of, or a layer that the model does not have. Nothing of an
                earlier run in the same folder was touched.
        """
        kwargs = self._with_recipe(kwargs)
        if kwargs.get("resume") is True and not _is_unfinished(self.ckpt):
            raise UserError(
                f"resume=True: {self.ckpt_path or self.model_name} is not the checkpoint of an unfinished run; "
                "load the run's weights/last.pt, or leave resume out and name data= for a new run"
            )
        if kwargs.get("label_smoothing"):
            say(
                f"label_smoothing={kwargs['label_smoothing']} changes nothing: ultralytics has dropped it, and the loss smooths by itself, "
                "by how well a box fits; leave it out"
            )
        dry_run = kwargs.pop("dry_run", False)
        asked = kwargs.pop("gradient_checkpointing", getattr(self.model, "gradient_checkpointing", None))
        arguments = with_device(settings.apply_script_arguments(kwargs | _checkpoint_of(asked, kwargs)), says_each=True)
        _check_layers(self.model)
        if dry_run:
            return self._say_plan(arguments)
        with _on_later_machines_as_a_later_rank():
            return super().train(trainer=trainer, **arguments)  # type: ignore[misc]

    def _with_recipe(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        others = {key: value for key, value in kwargs.items() if key != "recipe"}
        if kwargs.get("recipe") is None:
            return others
        if kwargs.get("resume"):
            raise UserError(
                f"recipe={kwargs['recipe']}: a run that is resumed keeps the arguments that it began with; leave recipe out"
            )
        model = self.ckpt_path or self.model_name
        found, line = recipes.apply(kwargs["recipe"], {"model": model, **others}, str(model))
        say(line)
        return {key: value for key, value in found.items() if key != "model" or "model" in others}

    def _say_plan(self, arguments: dict[str, Any]) -> None:
        """What `train` would start, on stdout; nothing is started."""
        from yolov12.engine import dryrun

        model = arguments.get("model") or self.overrides.get("model") or self.model_name
        dryrun.show({"model": model, **arguments}, launchers.of_machine() or launchers.of_process())

    def val(self, validator: Any = None, **kwargs: Any) -> Any:
        """`ultralytics.YOLO.val` that also takes `device="auto"`."""
        return super().val(validator=validator, **with_device(kwargs, count=1))  # type: ignore[misc]

    def predict(self, source: Any = None, stream: bool = False, predictor: Any = None, **kwargs: Any) -> Any:
        """`ultralytics.YOLO.predict` that also takes `device="auto"`."""
        return super().predict(source, stream, predictor=predictor, **with_device(kwargs, count=1))  # type: ignore[misc]

    def export(self, **kwargs: Any) -> str:
        """`ultralytics.YOLO.export` that also takes `device="auto"`, and compares what it made with this model (docs/export.md).

        Raises:
            UserError: a combination that can not be made; nothing is written.
            ParityError: the export does not find what this model finds; nothing is written.
        """
        from yolov12.export import exported, run

        if isinstance(self.model, (str, Path)):
            exported.refuse(self.model, kwargs.get("format"))
            if Path(self.model).suffix.lower() == ".onnx":
                return run.engine_of_file(Path(self.model), kwargs)
        self._check_is_pytorch_model()  # type: ignore[attr-defined]

        def measure(file: Path | None, imgsz: tuple[int, int]) -> float:
            if file is not None:
                return _mean_ap(type(self)(file, task=self.task), kwargs["data"], imgsz)
            # A copy: validation folds batch norms into the model that it is given. Without the predictor of an earlier call, which has a lock.
            with replaced(self, predictor=None):
                bare = copy.deepcopy(self)
            return _mean_ap(bare, kwargs["data"], imgsz)

        return run.export(self.model, super().export, with_device(kwargs, count=1), measure, self)  # type: ignore[misc]


def _mean_ap(model: Any, data: Any, imgsz: tuple[int, int]) -> float:
    """mAP50-95 in percent on the data set of an export, on the CPU. Pictures are padded to a square for both sides: a fixed graph takes no other.

    Args:
        imgsz: (height, width) of the export, a square: by itself a model would take the size that it was trained at, and a file of any size 640.
    """
    found = model.val(data=data, imgsz=imgsz[0], device="cpu", rect=False, plots=False, verbose=False, save=False)
    return 100 * float(next(value for key, value in found.results_dict.items() if key.startswith("metrics/mAP50-95")))


def _is_unfinished(checkpoint: dict[str, Any] | None) -> bool:
    """Whether a checkpoint holds what resuming needs (ultralytics engine/model.py:877)."""
    known = checkpoint or {}
    return known.get("epoch", -1) >= 0 and known.get("optimizer") is not None


def _check_layers(model: Any) -> None:
    """Refuse unknown layers here: the trainer has made the run's folder, and emptied an old one, by the time that it asks."""
    wanted = settings.current().disable_mas_layers
    if wanted and hasattr(model, "named_modules"):  # an exported file is refused by ultralytics
        from yolov12.engine.layers import names_of

        names_of(model, wanted)


def _checkpoint_of(asked: Any, kwargs: dict[str, Any]) -> dict[str, str]:
    """The argument `checkpoint` that a script means by `gradient_checkpointing=True` or `False`; nothing if it says neither.

    As an argument, or as `model.model.gradient_checkpointing = True`: training makes a model of its own from this one (ultralytics
    engine/model.py:885), so the attribute would be lost on the way.
    """
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


def with_device(kwargs: dict[str, Any], count: int | None = None, says_each: bool = False) -> dict[str, Any]:
    """Replace `device="auto"` by what it means here; the first `count` GPUs where a verb uses no more.

    A verb that uses `count` asks the driver about GPUs that were named only before this process has used one: each frame of a stream would wait for
    the answer.

    Raises:
        UserError: a GPU that was named has no room, or they are of several kinds.
    """
    asked = kwargs.get("device")
    here = launchers.of_process()
    if asked != "auto":
        is_ours = devices.is_in_use_here()
        named = [] if not here.is_alone or (is_ours and count is not None) else requested_gpus(asked)
        if named and (gpus := devices.visible_gpus()):
            # Those that use fewer than were named use one of a kind.
            for line in devices.check_named(named, gpus, settings.current().mixed_gpus or count is not None, is_ours):
                warn(line)
        return kwargs
    gpus = devices.visible_gpus()
    device, reason = devices.auto(gpus, ranks.wanted_here(here, launchers.of_machine()))
    if count is not None:
        device = ",".join(device.split(",")[:count])
    if says_each:
        for line in devices.lines(gpus, device):
            say(line)
    say(f"device: {device} ({reason})")
    return {**kwargs, "device": device}


@contextmanager
def _on_later_machines_as_a_later_rank() -> Iterator[None]:
    """ultralytics reads the finished run's checkpoint where its rank is 0 or none (engine/model.py:914). The first machine is sure to have it."""
    import ultralytics.engine.model as upstream

    machines = launchers.of_machine()
    later = {"RANK": machines.node} if machines and machines.node > 0 else {}
    with replaced(upstream, **later):
        yield
