# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is refused before torch is imported and before anything is said or made: wrong values, and things that are not there."""

from __future__ import annotations

import difflib
import os
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from yolov12 import arguments, settings, values
from yolov12.data import datayaml
from yolov12.distributed.devices import DRIVER, requested_gpus
from yolov12.errors import UserError
from yolov12.export import aoti_request, request


def check(options: Mapping[str, Any]) -> None:
    """Refuse what can be known to fail from what was typed and from what lies on the disk.

    Raises:
        UserError: a wrong setting or value, a device that does not exist, a data set or source that is not there.
    """
    settings.current()
    values.check(options)
    check_device(options.get("device"))
    if options.get("data") and not may_be_classification(options):
        check_data(str(options["data"]))
    if options.get("source"):
        check_source(options["source"])


def check_device(device: Any) -> None:
    """Refuse GPUs that are not there.

    Raises:
        UserError: names the device, what exists, and what to type.
    """
    if not (asked := requested_gpus(device)):
        return
    count, visible = 0, []
    if any(place.exists() for place in DRIVER):
        import torch

        count = torch.cuda.device_count()
        # An index among CUDA_VISIBLE_DEVICES means the physical GPU, as in ultralytics (utils/torch_utils.py:176).
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(" ", "").split(",")[:count]
    if all(index < count or str(index) in visible for index in asked):
        return
    there = (
        f"torch sees {count} here: 0 to {count - 1}; type device=0 or device=auto"
        if count > 1
        else "torch sees one here: type device=0"
    )
    none = "torch sees no GPU here: type device=cpu, or leave device out (in a container: docker run --gpus all)"
    raise UserError(f"device={','.join(map(str, asked))} does not exist: {there if count else none}")


def check_amp(options: Mapping[str, Any]) -> None:
    """Refuse a 16-bit format by name for a training of boxes without CUDA, as the trainer would (precision/choose.py).

    Where there is a driver, what torch sees is left to the trainer.

    Raises:
        UserError: says where the run would be.
    """
    device = str(options.get("device")).strip().lower()
    if settings.current().amp not in ("fp16", "bf16") or may_be_another_task(options):
        return
    if device in ("cpu", "mps") or not any(place.exists() for place in DRIVER):
        where = f"on {device}" if device in ("cpu", "mps") else "on cpu (there is no NVIDIA driver here)"
        raise UserError(
            f"amp={settings.current().amp} needs a CUDA device and this run is {where}; use amp=True or amp=False"
        )


def may_be_another_task(options: Mapping[str, Any]) -> bool:
    """Whether this may be no training of boxes; others are stock's, with its own meaning of `amp=`.

    Files and addresses do not say their task before they are read. Names that ultralytics knows do: without a "-" they are of boxes.
    """
    if task := options.get("task"):
        return task != "detect"
    model = str(options.get("model") or "")
    return "://" in model or Path(model).is_file() or "-" in Path(model).stem


def check_export(options: Mapping[str, Any]) -> None:
    """Refuse an export that can not be made, and `format=engine` where nothing is installed that builds one.

    Raises:
        UserError: the combination, or how an image is built that has TensorRT.
    """
    requested = request.of(options)
    if aoti_request.is_asked(options):
        aoti_request.of(options, request.STRIDE)  # any size: the model's is not known yet
    if requested is None or requested.form != "engine" or any(map(find_spec, ("tensorrt", "tensorrt_rtx"))):
        return
    raise UserError(
        f"format={options['format']} needs TensorRT, which is not installed here. In a clone of the repository type: "
        "make build TENSORRT=rtx for GeForce and RTX GPUs, or make build TENSORRT=10 TENSORRT_INDEX=ADDRESS (NVIDIA's package index, or a mirror "
        f"of it) for all; outside of an image pip install {request.TENSORRT_RTX} for GeForce and RTX GPUs; or export format=onnx"
    )


def may_be_classification(options: Mapping[str, Any]) -> bool:
    """Whether `data=` may name a folder of classes, which ultralytics also looks for in a folder of its own (data/utils.py:874).

    A checkpoint does not say its task before it is read; with one, only what is written like a yaml is known to be none.
    """
    model = str(options.get("model") or "")
    if task := options.get("task"):
        return task == "classify"
    is_checkpoint = Path(model).suffix == ".pt" and Path(model).is_file()
    return Path(model).stem.endswith("-cls") or (is_checkpoint and not Path(str(options["data"])).suffix)


def check_data(name: str) -> None:
    """Refuse a data set that is neither here nor known to ultralytics. What is in it is checked later (data/check.py).

    Raises:
        UserError: there is no such file or folder.
    """
    if name == "synth" or "://" in name or name.startswith("ul:") or Path(name).exists():
        return
    listed = arguments.ultralytics_folder() / "cfg" / "datasets"
    if "/" in name or not any((listed / file).is_file() for file in (name, f"{name}.yaml")):
        advice = _nearest(name) or ": give the path of a data yaml, or data=synth"
        raise UserError(f"data={name}: there is no such file in {Path.cwd()}{advice}")


def check_address(options: Mapping[str, Any]) -> None:
    """Refuse an address for `data=`, where every label is read first and nothing is fetched for it.

    Raises:
        UserError: it is one.
    """
    if options.get("data"):
        datayaml.refuse_address(options["data"], is_folder=may_be_classification(options))


def check_source(source: Any) -> None:
    """Refuse pictures and videos that are not there; cameras, addresses, patterns and screens are left to ultralytics.

    Raises:
        UserError: there is no such file or folder.
    """
    text = str(source)
    is_elsewhere = "://" in text or text.isdigit() or text.startswith("screen")
    if isinstance(source, str) and not is_elsewhere and not set(text) & set("*?[") and not Path(text).exists():
        raise UserError(f"source={text}: there is no such file or folder{_nearest(text)}")


def check_resume(name: str) -> None:
    """Refuse a checkpoint that is not there. Who names the folder of a run is told of the file in it.

    Raises:
        UserError: there is no such file.
    """
    path = Path(name)
    if path.is_file():
        return
    for inside in (path / "weights" / "last.pt", path / "last.pt"):
        if inside.is_file():
            raise UserError(f"resume={name} is a folder: type resume={inside}")
    what = "there is no last.pt in this folder" if path.is_dir() else f"there is no such file in {Path.cwd()}"
    near = "" if path.is_dir() else _nearest(name)
    advice = near or ": give the path of an unfinished run's, for example resume=runs/detect/train/weights/last.pt"
    raise UserError(f"resume={name}: {what}{advice}")


def whole_file(model: str) -> str:
    """`model`, unless it names an empty file, or a TorchScript file that was cut, which torch would call by no name.

    What else may be wrong with weights is told by who reads them (model/reading.py).

    Raises:
        UserError: the file is empty, or no zip.
    """
    path = Path(model)
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{model} is empty (0 bytes): fetch it again, or name other weights")
    if path.suffix == ".torchscript" and path.is_file() and not zipfile.is_zipfile(path):  # its end says that it is one
        raise UserError(f"{model} is no whole TorchScript file: fetch it again, or export it again")
    return model


def network_file(model: str) -> str:
    """`model`, unless it is a yaml of RT-DETR, or one that describes no network, as that of a data set; a broken yaml is told by who reads it.

    Raises:
        UserError: `YOLO` does not build it, or there is no backbone in it.
    """
    path = Path(model)
    if path.suffix not in (".yaml", ".yml"):
        return model
    # A class of its own in ultralytics, which tells it by the name (cfg/__init__.py:1139); weights say themselves what they are.
    if "rtdetr" in path.stem.lower():
        raise UserError(
            f"model={model}: the command line builds no RT-DETR; type in Python: from ultralytics import RTDETR; "
            f"RTDETR({model!r}).train(data='my.yaml')"
        )
    if not path.is_file():
        return model
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError):
        return model
    if not isinstance(content, dict) or "backbone" not in content:
        is_data = isinstance(content, dict) and not {"train", "val"}.isdisjoint(content)
        what = f"it is a data set's: type data={model}, and model=yolov12n.yaml" if is_data else "it has no backbone:"
        raise UserError(f"model={model} describes no network; {what}")
    return model


def check_pictures_per_call(verb: str, batch: Any) -> None:
    """Refuse for predict and val what `batch=` may be for train alone, where it is measured.

    Raises:
        UserError: not a whole number from 1.
    """
    if batch is not None and not values.is_whole(batch, 1):
        raise UserError(f"batch={batch}: {verb} takes a whole number of pictures from 1, for example batch=16")


def _nearest(name: str) -> str:
    """A file beside the one that was named whose name is similar."""
    folder = Path(name).parent
    beside = [file.name for file in folder.iterdir()] if folder.is_dir() and os.access(folder, os.R_OK) else []
    near = difflib.get_close_matches(Path(name).name, beside, n=1)
    return f"; did you mean {folder / near[0]}?" if near else ""
