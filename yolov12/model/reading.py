# SPDX-License-Identifier: AGPL-3.0-or-later
"""Read one checkpoint file: say clearly what is wrong with it, run no code from it, convert it if it is official."""

from __future__ import annotations

import importlib.util
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.nn import tasks

from yolov12 import log
from yolov12.errors import UserError
from yolov12.model import official, safeload
from yolov12.seams import Seam

SEAMS = (
    Seam("nn/tasks.py", 1714, "ultralytics.nn.tasks._SafeLoad.restricted", "4a1451ae2e96"),
    Seam("nn/tasks.py", 1791, "ultralytics.nn.tasks._SafeLoad.activation", "36eda5639ce2"),
)

TRUST = "YOLOV12_TRUST_WEIGHTS=1"
_ZIP_MAGIC = b"PK\x03\x04"
# What a damaged or hostile file can end in. Not among them: MemoryError, and OSError of a failing disk.
_WRONG_VALUES = (LookupError, TypeError, ValueError, AttributeError, AssertionError, ArithmeticError)
_DAMAGE = (*_WRONG_VALUES, EOFError, RuntimeError, ImportError, struct.error, pickle.UnpicklingError)


def read(path: Path, trust: bool) -> tuple[dict[str, Any], official.Conversion | None]:
    """The checkpoint in `path`, in upstream's form, and what was converted.

    Args:
        path: a local file.
        trust: let it run any code.

    Raises:
        UserError: it is no checkpoint, or damaged, or it asks for something that a checkpoint does not need and `trust` is off.
    """
    forbid_eval()
    _check_archive(path)
    try:
        loaded = safeload.load(path, trust)
    except safeload.RefusedError as error:
        raise UserError(_refusal(path, error.what)) from error
    except ModuleNotFoundError as error:  # only when trusted: nothing is installed behind the user's back
        raise UserError(
            f"{path} needs {error.name}, which is not installed: install the package that it was trained with"
        ) from error
    except _DAMAGE as error:
        raise UserError(
            f"{path} is damaged and can not be loaded ({type(error).__name__}: {error}): fetch it again"
        ) from error
    try:
        checkpoint = _checked(path, loaded)
        return checkpoint, official.convert_checkpoint(checkpoint)
    except official.UnfitError as error:
        raise UserError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise UserError(f"{path}: its net can not be rebuilt ({type(error).__name__}: {error})") from error


def forbid_eval() -> None:
    """Make parse_model build activations without eval (nn/tasks.py:2101), for good.

    The YAML inside a checkpoint is read again whenever a net is rebuilt from it: in a conversion, and by a trainer long after loading.
    """
    tasks.SAFE_LOAD = True


def _check_archive(path: Path) -> None:
    """Tell what is no checkpoint by its first bytes and its table of contents, with the reader that torch.load will use."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path} can not be read: {(error.strerror or str(error)).lower()}") from error
    if not start:
        raise UserError(f"{path} is empty (0 bytes): fetch it again, or name other weights")
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise UserError(f"{path} is a web page, not a checkpoint: a download went wrong, fetch it again")
    if not start.startswith(_ZIP_MAGIC):
        raise UserError(
            f"{path} is not a checkpoint: torch.save writes zip archives, this file starts with {start[:8]!r}"
        )
    try:
        records = set(torch._C.PyTorchFileReader(str(path)).get_all_records())
    except RuntimeError as error:
        if zipfile.is_zipfile(path):
            raise UserError(f"{path} is a zip archive, but not a checkpoint written by torch.save") from error
        size = path.stat().st_size / 1e6
        raise UserError(
            f"{path} is cut off or damaged: no archive can be read from its {size:.1f} MB; fetch it again"
        ) from error
    if "constants.pkl" in records:  # torch.load would run it
        raise UserError(f"{path} is a TorchScript export, which is code: name the .pt weights that it was made from")
    if "data.pkl" not in records:
        raise UserError(f"{path} is a zip archive, but not a checkpoint written by torch.save")


def _refusal(path: Path, what: str) -> str:
    package = what.partition(".")[0]
    if package == "models" or what.startswith(("utils.", "yolov5.")):
        return f"{path} is a model of the YOLOv5 repository ({what}), which ultralytics does not load: use yolov5nu.pt and the like"
    return (
        f"{path} was not loaded: it asks for {what}, which no checkpoint of ultralytics needs, and nothing of it was run. "
        f"If you trust its author with everything on this machine, set {TRUST}: then the file may run any code"
    )


def _checked(path: Path, loaded: Any) -> dict[str, Any]:
    """The loaded object as the dict that ultralytics expects, without what would make later steps use the network."""
    checkpoint = {"model": loaded} if isinstance(loaded, tasks.BaseModel) else loaded  # torch.save(model)
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} is not a checkpoint: it holds a {type(loaded).__name__}")
    model = checkpoint.get("ema") or checkpoint.get("model")
    if not isinstance(model, nn.Module):
        if checkpoint and all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
            raise UserError(
                f"{path} holds only tensors (a state dict), no model: load them yourself into one built from its YAML"
            )
        raise UserError(f"{path} is not a checkpoint: it has no model")
    if checkpoint.get("modelopt") and importlib.util.find_spec("modelopt") is None:
        raise UserError(
            f"{path} was trained with quantization: loading it needs the package nvidia-modelopt, which is not installed"
        )
    if any(_addresses(getattr(model, "yaml", None))):
        raise UserError(f"{path} was not loaded: the YAML of its net has the address {next(_addresses(model.yaml))}")
    _drop_addresses(path, checkpoint)
    return checkpoint


def _drop_addresses(path: Path, checkpoint: dict[str, Any]) -> None:
    """Forget training arguments that are addresses.

    ultralytics validates and trains on the data set that a checkpoint names if the user names none (engine/model.py:1164), downloads it if
    that is an address, and runs the `download:` script that it contains (data/utils.py). The user named none of that.
    """
    args = checkpoint.get("train_args")
    if not isinstance(args, dict):
        return
    dropped = {key: value for key, value in args.items() if any(_addresses(value))}
    checkpoint["train_args"] = {key: value for key, value in args.items() if key not in dropped}
    if dropped:
        said = ", ".join(f"{key}={value}" for key, value in dropped.items())
        log.say_once(
            f"addresses {path}", f"weights: {path.name} names {said}: not used, give it yourself if you want it"
        )


def _addresses(value: Any) -> Iterator[str]:
    """Every text with an address in it, however deep in lists and dicts."""
    if isinstance(value, str):
        if "://" in value:
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _addresses(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _addresses(item)
