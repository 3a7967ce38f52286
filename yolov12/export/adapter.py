# SPDX-License-Identifier: AGPL-3.0-or-later
"""What this room knows of ultralytics' exporter beyond its arguments. Nothing is replaced.

Where it writes follows from the network's `pt_path`, what a head returns while it is exported follows from its `export` flag, and what it
says goes through its logger.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from ultralytics.utils import LOGGER

from yolov12 import log
from yolov12.seams import Seam

SEAMS = (
    Seam("engine/exporter.py", 610, "ultralytics.engine.exporter.Exporter.__call__", "8a4e4f44387a"),
    Seam("nn/modules/head.py", 180, "ultralytics.nn.modules.head.Detect.forward", "164f309a5c8f"),
)


@contextmanager
def written_to(network: Any, out: Path) -> Iterator[None]:
    """Within the block an export of `network` is written beside `out` under its name (engine/exporter.py:909)."""
    before = vars(network).get("pt_path")
    network.pt_path = str(out.with_suffix(".pt"))
    try:
        yield
    finally:
        del network.pt_path
        if before is not None:
            network.pt_path = before


@contextmanager
def told_in_our_words() -> Iterator[None]:
    """Within the block the exporter names this program in the commands that it proposes, and no file that is not there."""
    LOGGER.addFilter(_in_our_words)
    try:
        yield
    finally:
        LOGGER.removeFilter(_in_our_words)


def _in_our_words(record: logging.LogRecord) -> bool:
    """engine/exporter.py:529, :1018 and :1040. A file's size is in MiB there, whatever it says (utils/files.py:174)."""
    text = re.sub(r"\byolo (?=predict|val)", lambda _: f"{log.program()} ", record.getMessage())
    text = re.sub(r"starting from '.*' with input (.*) \([\d.]+ MB\)", r"input \1", text)
    record.msg, record.args = re.sub(r"(?<=\d) MB\)", " MiB)", text), ()
    return True


def as_exported(source: torch.nn.Module) -> torch.nn.Module:
    """A float32 CPU copy whose heads return what is exported, the decoded outputs alone (engine/exporter.py:937)."""
    network = copy.deepcopy(source).cpu().float().eval()
    for module in network.modules():
        if hasattr(module, "export") and hasattr(module, "format"):
            vars(module).update(export=True, format="onnx")
    return network
