# SPDX-License-Identifier: AGPL-3.0-or-later
"""Weights for ultralytics: found by path or name, read safely, converted; and written in its form.

Everything in ultralytics that loads a `.pt` model passes through `ultralytics.nn.tasks.torch_safe_load`, a global of that module; `install`
puts ours there.
"""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from ultralytics.nn import tasks
from ultralytics.utils import DEFAULT_CFG_DICT, DEFAULT_CFG_KEYS, SETTINGS
from ultralytics.utils import __version__ as ultralytics_version
from ultralytics.utils.checks import check_yolov5u_filename
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

from yolov12 import __version__, log, settings
from yolov12.errors import UserError
from yolov12.model import download, names, official, reading, seal
from yolov12.seams import Seam
from yolov12.wholefile import replacing

SEAMS = (
    Seam("nn/tasks.py", 1873, "ultralytics.nn.tasks.torch_safe_load", "44f3a6d7f6a1"),
    Seam("nn/tasks.py", 2020, "ultralytics.nn.tasks.load_checkpoint", "3399d0f461b2"),
)


def install() -> None:
    """Make ultralytics load checkpoints through this module. Idempotent."""
    import ultralytics.nn

    if getattr(tasks.torch_safe_load, "__wrapped__", None) is None:
        tasks.torch_safe_load = functools.wraps(tasks.torch_safe_load)(torch_safe_load)
        ultralytics.nn.torch_safe_load = tasks.torch_safe_load
        tasks.check_file = _check_file
        reading.forbid_eval()


def torch_safe_load(weight: str | Path, safe_only: bool | None = None) -> tuple[dict[str, Any], str]:
    """The checkpoint in `weight` and the path of its file; replaces ultralytics' function of this name.

    Args:
        weight: path, or a name that docs/weights.md lists.
        safe_only: True refuses code from the file even if the user trusts it.

    Raises:
        UserError: no such file or name, no checkpoint, damaged, or it wants to run code.
        RetryableError: a download failed.
    """
    path = _whole(locate(weight))
    trust = settings.current().trust_weights and not safe_only
    if trust:
        log.say_once(
            f"trust {path}", f"WARNING {reading.TRUST}: {path} is loaded as its author wants, any code in it runs"
        )
    checkpoint, conversion = reading.read(path, trust)
    if conversion is not None:
        log.say_once(f"converted {path}", conversion.line(path.name))
    return checkpoint, str(path)


def _whole(path: Path) -> Path:
    """`path`, or the checkpoint before it where `path` is the damaged last.pt of an unfinished run.

    Other files with our checksum are held against it; those without are judged by their readers.

    Raises:
        UserError: it is damaged, and there is none before it.
    """
    if path.name != "last.pt":
        if seal.is_sealed(path) and (flaw := seal.flaw(path)):
            raise UserError(f"{path} is damaged: {flaw}; fetch it again, or take another checkpoint of its run")
        return path
    try:
        path, why = seal.whole(path)
    except ValueError as error:
        if not zipfile.is_zipfile(path):
            return path  # what else it may be is told in other words
        raise UserError(f"{error}; fetch it again, or begin a new run") from error
    if why is not None:
        log.say_once(f"damaged {path}", f"WARNING {why}")
    return path


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
    checkpoint, conversion = reading.read(source, settings.current().trust_weights)
    report = Report(source, target, hashlib.sha256(source.read_bytes()).hexdigest(), conversion)
    content = io.BytesIO()
    torch.save(_finished(checkpoint, report), content)
    with replacing(target) as part:
        part.write_bytes(content.getbuffer())
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


def _check_file(file: str | Path, *_args: Any, **_kwargs: Any) -> str:
    """Weights by address, for `load_checkpoint`: through our download, which obeys YOLOV12_OFFLINE, and not into the current folder."""
    return names.resolve(str(file))
