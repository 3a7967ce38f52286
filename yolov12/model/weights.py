# SPDX-License-Identifier: AGPL-3.0-or-later
"""Loading of checkpoints: no code from the file, clear errors, official checkpoints converted.

Everything in ultralytics that loads a `.pt` model passes through `ultralytics.nn.tasks.torch_safe_load`, a global of that module; `install`
puts ours there.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import pickle
import struct
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.nn import tasks
from ultralytics.utils import DEFAULT_CFG_DICT, DEFAULT_CFG_KEYS, SETTINGS
from ultralytics.utils import __version__ as ultralytics_version
from ultralytics.utils.checks import check_yolov5u_filename
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

from yolov12 import __version__, log, settings
from yolov12.errors import UserError
from yolov12.model import download, names, official, safeload
from yolov12.model.files import written_aside
from yolov12.seams import Seam

SEAMS = (
    Seam("nn/tasks.py", 1872, "ultralytics.nn.tasks.torch_safe_load", "to-be-filled"),
    Seam("nn/tasks.py", 2020, "ultralytics.nn.tasks.load_checkpoint", "to-be-filled"),
)

TRUST = "YOLOV12_TRUST_WEIGHTS=1"
_ZIP_MAGIC = b"PK\x03\x04"
# What reading a damaged or hostile pickle can end in. Not among them: MemoryError, and OSError of a failing disk.
_DAMAGE = (
    *(EOFError, LookupError, TypeError, ValueError, AttributeError, AssertionError, RuntimeError, ArithmeticError, ImportError),
    *(struct.error, pickle.UnpicklingError),
)


def install() -> None:
    """Make ultralytics load checkpoints through this module. Idempotent.

    `SAFE_LOAD` also makes parse_model build activations without eval (nn/tasks.py:2096): the YAML inside a checkpoint is read again when a
    trainer rebuilds the net, long after loading.
    """
    import ultralytics.nn

    if getattr(tasks.torch_safe_load, "__wrapped__", None) is None:
        tasks.torch_safe_load = functools.wraps(tasks.torch_safe_load)(torch_safe_load)
        ultralytics.nn.torch_safe_load = tasks.torch_safe_load
        tasks.check_file = _check_file
        tasks.SAFE_LOAD = True


def torch_safe_load(weight: str | Path, safe_only: bool | None = None) -> tuple[dict[str, Any], str]:
    """The checkpoint in `weight` and the path of its file; replaces ultralytics' function of this name.

    Args:
        weight: path, or a name that docs/weights.md lists.
        safe_only: True refuses code from the file even if the user trusts it.

    Raises:
        UserError: no such file or name, no checkpoint, damaged, or it wants to run code.
        RetryableError: a download failed.
    """
    path = locate(weight)
    trust = settings.current().trust_weights and not safe_only
    if trust:
        log.say_once(f"trust {path}", f"WARNING {TRUST}: {path} is loaded as its author wants, any code in it runs")
    checkpoint, conversion = _load(path, trust)
    if conversion is not None:
        log.say_once(f"converted {path}", conversion.line(path.name))
    return checkpoint, str(path)


def locate(weight: str | Path) -> Path:
    """The local file for `weight`, fetched into the cache if it is a name of released weights.

    Raises:
        UserError: no such file or name.
    """
    text = names.resolve(str(weight))
    if not text.lower().endswith(".pt"):
        raise UserError(f"{text} is no .pt file: weights to load or train from are .pt files")
    path = Path(text)
    if path.is_file():
        return path
    name = check_yolov5u_filename(path.name, verbose=False)  # yolov5n.pt -> yolov5nu.pt, as nn/tasks.py does
    for candidate in (Path(name), Path(SETTINGS["weights_dir"]) / name):
        if candidate.is_file():
            return candidate
    if path.parent != Path() or name not in GITHUB_ASSETS_NAMES:
        raise UserError(f"{weight}: no such file")
    return download.fetch(name, f"{names.ASSETS}/{name}")


def check_task(model: nn.Module, task: str) -> None:
    """Make sure that loaded weights are for `task`.

    Raises:
        UserError: they are for another one.
    """
    found = getattr(model, "task", None) or tasks.guess_model_task(model)
    if found != task:
        where = getattr(model, "pt_path", None) or "the model"
        raise UserError(f"{where}: the weights are for {found}, the command is {task}; name weights for {task}, or use task={found}")


@dataclass(frozen=True)
class Report:
    """What `convert_file` did."""

    source: Path
    target: Path
    source_sha256: str
    conversion: official.Conversion | None

    def lines(self) -> list[str]:
        """For the user, one fact each."""
        if self.conversion is None:
            said = f"weights: {self.source.name} is in upstream's form already: written again as it is"
        else:
            said = self.conversion.line(self.source.name)
        return [
            said,
            f"source: {self.source} (sha256 {self.source_sha256})",
            f"written: {self.target} ({self.target.stat().st_size / 1e6:.1f} MB), loads in ultralytics {ultralytics_version}",
        ]


def convert_file(source: str | Path, target: str | Path) -> Report:
    """Write the weights of `source` to `target` as a finished run of ultralytics would, and where they came from.

    Raises:
        UserError: `source` can not be loaded, or `target` exists or can not be written.
        RetryableError: the disk is full.
    """
    source, target = locate(source), Path(target)
    if target.exists():
        raise UserError(f"{target} exists: name another file, or remove it first")
    if target.suffix != ".pt" or not target.parent.is_dir():
        raise UserError(f"{target}: name a .pt file in a folder that exists")
    checkpoint, conversion = _load(source, settings.current().trust_weights)
    report = Report(source, target, hashlib.sha256(source.read_bytes()).hexdigest(), conversion)
    content = io.BytesIO()
    torch.save(_finished(checkpoint, report), content)
    with written_aside(target) as file:
        file.write(content.getbuffer())
    return report


def _finished(checkpoint: dict[str, Any], report: Report) -> dict[str, Any]:
    """The content that utils/torch_utils.py:895 (strip_optimizer) leaves at the end of a run, and the provenance."""
    model = checkpoint.get("ema") or checkpoint["model"]
    if hasattr(model, "criterion"):
        model.criterion = None
    if hasattr(model, "args"):
        model.args = dict(model.args) if isinstance(model.args, dict) else vars(model.args)
    for parameter in model.parameters():
        parameter.requires_grad = False
    args = {**DEFAULT_CFG_DICT, **(checkpoint.get("train_args") or {})}
    dropped = dict.fromkeys(("ema", "optimizer", "best_fitness", "stopper", "updates", "scaler"))
    return {
        **checkpoint,
        **dropped,
        "epoch": -1,
        "model": model,
        "train_args": {key: value for key, value in args.items() if key in DEFAULT_CFG_KEYS},
        "date": datetime.now().astimezone().isoformat(),
        "version": ultralytics_version,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        "provenance": {
            "source": report.source.name,
            "sha256": report.source_sha256,
            "kind": report.conversion.kind if report.conversion else "upstream",
            "source_version": checkpoint.get("version"),
            "converter": f"yolov12 {__version__}",
        },
    }


def _load(path: Path, trust: bool) -> tuple[dict[str, Any], official.Conversion | None]:
    _check_archive(path)
    try:
        loaded = safeload.load(path, trust)
    except safeload.RefusedError as error:
        raise UserError(_refusal(path, error.what)) from error
    except ModuleNotFoundError as error:  # only when trusted: nothing is installed behind the user's back
        raise UserError(_refusal(path, error.name or str(error))) from error
    except _DAMAGE as error:
        raise UserError(f"{path} is damaged and can not be loaded ({type(error).__name__}: {error}): fetch it again") from error
    checkpoint = _checked(path, loaded)
    try:
        conversion = official.convert_checkpoint(checkpoint)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return checkpoint, conversion


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
        raise UserError(f"{path} is not a checkpoint: torch.save writes zip archives, this file starts with {start[:8]!r}")
    try:
        records = set(torch._C.PyTorchFileReader(str(path)).get_all_records())
    except RuntimeError as error:
        size = path.stat().st_size / 1e6
        raise UserError(f"{path} is cut off or damaged: no archive can be read from its {size:.1f} MB; fetch it again") from error
    if "constants.pkl" in records:
        raise UserError(f"{path} is a TorchScript export, which is code: name the .pt weights that it was made from")
    if "data.pkl" not in records:
        raise UserError(f"{path} is a zip archive, but not a checkpoint written by torch.save")


def _refusal(path: Path, what: str) -> str:
    package = what.partition(".")[0]
    if package == "models" or what.startswith(("utils.", "yolov5.")):
        return f"{path} is a model of the YOLOv5 repository ({what}), which ultralytics does not load: use yolov5nu.pt and the like"
    if settings.current().trust_weights:
        return f"{path} needs {what}, which is not installed: install the package that it was trained with"
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
            raise UserError(f"{path} holds only tensors (a state dict), no model: load them yourself into one built from its YAML")
        raise UserError(f"{path} is not a checkpoint: it has no model")
    if checkpoint.get("modelopt") and importlib.util.find_spec("modelopt") is None:
        raise UserError(f"{path} was trained with quantization: loading it needs the package nvidia-modelopt, which is not installed")
    if any(_addresses(getattr(model, "yaml", None))):
        raise UserError(f"{path} was not loaded: the YAML of its net has the address {next(_addresses(model.yaml))}")
    _drop_addresses(path, checkpoint)
    return checkpoint


def _drop_addresses(path: Path, checkpoint: dict[str, Any]) -> None:
    """Forget training arguments that are addresses.

    ultralytics validates and trains on the data set that a checkpoint names if the user names none (engine/model.py:1161), downloads it if
    that is an address, and runs the `download:` script that it contains (data/utils.py). The user named none of that.
    """
    args = checkpoint.get("train_args")
    if not isinstance(args, dict):
        return
    dropped = {key: value for key, value in args.items() if any(_addresses(value))}
    checkpoint["train_args"] = {key: value for key, value in args.items() if key not in dropped}
    if dropped:
        said = ", ".join(f"{key}={value}" for key, value in dropped.items())
        log.say_once(f"addresses {path}", f"weights: {path.name} names {said}: not used, give it yourself if you want it")


def _addresses(value: Any) -> Any:
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


def _check_file(file: str | Path, *_args: Any, **_kwargs: Any) -> str:
    """Weights by address, for `load_checkpoint`: through our download, which obeys YOLOV12_OFFLINE, and not into the current folder."""
    return names.resolve(str(file))
