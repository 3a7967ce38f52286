# SPDX-License-Identifier: AGPL-3.0-or-later
"""What ultralytics lets each machine's first rank do before the others (scan labels, write caches, download), with peers that wait patiently.

Its own way leaves them in a collective, whose timeout then has to be as long as the longest scan.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import ultralytics.utils.torch_utils as upstream

from yolov12.distributed import world
from yolov12.distributed.pulse import doing
from yolov12.seams import Seam

SEAMS = (
    Seam("utils/torch_utils.py", 76, "ultralytics.utils.torch_utils.torch_distributed_zero_first", "ee050afe190a"),
)
USED_IN = ("engine.trainer", "engine.validator", "models.yolo.detect.train", "models.yolo.detect.val")
"""Modules that have it by name and run while ranks train."""

_upstream = upstream.torch_distributed_zero_first


@contextmanager
def first_rank_first(local_rank: int) -> Iterator[None]:
    """The block runs on each machine's rank 0 (or in a single process, -1), and after that on the others."""
    if not world.is_joined():  # a trainer of another task, whose groups are upstream's
        with _upstream(local_rank):
            yield
        return
    if local_rank not in {-1, 0}:
        world.meet()
    with doing("reading the data set"):
        yield
    if local_rank == 0:
        world.meet()


def install() -> None:
    """Replace it wherever it was imported by name; again does nothing."""
    for name in USED_IN:
        importlib.import_module(f"ultralytics.{name}").torch_distributed_zero_first = first_rank_first  # type: ignore[attr-defined]
