# SPDX-License-Identifier: AGPL-3.0-or-later
"""The end of a run: its checkpoints without the optimizer, and the best of them evaluated by all ranks, on GPUs or CPUs."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import ultralytics.engine.validator as upstream
import ultralytics.utils.torch_utils as upstream_torch_utils
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import strip_optimizer

from yolov12.distributed import world
from yolov12.engine.checkpoint import KEY
from yolov12.log import rank
from yolov12.model.seal import seal
from yolov12.seams import Seam, replaced
from yolov12.wholefile import replacing

SEAMS = (
    # Its standalone form takes every rank for one that has a CUDA device (line 193) and a path for a file of its own.
    Seam("engine/validator.py", 151, "ultralytics.engine.validator.BaseValidator.__call__", "29da273b2118"),
)


def strip(last: Path, best: Path) -> None:
    """Take the optimizer, and what a resume needs, out of a finished run's checkpoints, as far as they are there; each stays whole throughout."""
    results = None
    for checkpoint in (last, best):
        if checkpoint.exists():
            # its own log line would name the part file
            with replacing(checkpoint) as part, replaced(upstream_torch_utils, LOGGER=logging.getLogger(__name__)):
                updates: dict[str, Any] = {} if results is None else {"train_results": results}
                stripped = strip_optimizer(checkpoint, s=str(part), updates={KEY: None} | updates)
                seal(part)
            results = stripped.get("train_results") if checkpoint == last else results
            LOGGER.info(f"Optimizer stripped from {checkpoint}, {checkpoint.stat().st_size / 1e6:.1f} MB")


@contextmanager
def on_every_rank(checkpoint: Path, device: torch.device) -> Iterator[Path]:
    """Inside the block, ultralytics' validators may be called by all ranks with the path that this yields. Every rank must enter.

    Args:
        checkpoint: on rank 0.
        device: of this rank.
    """
    with ExitStack() as stack:
        path = stack.enter_context(brought_to_every_rank(checkpoint))
        if _is_launched() and device.type != "cuda":
            stack.enter_context(_on(device))
        yield path


@contextmanager
def brought_to_every_rank(checkpoint: Path) -> Iterator[Path]:
    """Where rank 0's file is to be read inside the block. Every rank must enter.

    No folder is shared: ranks other than the first hold a copy of its bytes in a temporary folder of their machine.
    """
    if not _is_launched():
        yield checkpoint
        return
    content = world.from_first(checkpoint.read_bytes() if rank() == 0 else b"")
    if rank() == 0:
        yield checkpoint
        return
    with tempfile.TemporaryDirectory(prefix="yolov12-") as folder:
        copy = Path(folder) / checkpoint.name
        copy.write_bytes(content)
        yield copy


def _is_launched() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """Validation by several ranks on a device that is not CUDA, where ultralytics would ask CUDA which of its devices is current."""
    backend = upstream.AutoBackend

    def on_device(*args: Any, **kwargs: Any) -> Any:
        return backend(*args, **{**kwargs, "device": device})

    def no_cuda(device_type: str) -> SimpleNamespace:
        return SimpleNamespace(current_device=lambda: 0)

    with replaced(upstream, AutoBackend=on_device, get_torch_device_backend=no_cuda):
        yield
