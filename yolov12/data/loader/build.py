# SPDX-License-Identifier: AGPL-3.0-or-later
"""Our loader for one of ultralytics' data sets, or the reason why that set must go through ultralytics' own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from yolov12.data.fit import fitted
from yolov12.data.loader import cachefile, decoders, store
from yolov12.data.loader.fetch import on_the_cpu
from yolov12.data.loader.gather import Gatherer
from yolov12.data.loader.labels import Boxes
from yolov12.data.loader.loader import READ_AHEAD, PictureLoader
from yolov12.data.loader.prepare import Preparer
from yolov12.data.loader.reader_pool import ReaderPool
from yolov12.data.loader.recent import Recent
from yolov12.data.order import Order, Plan
from yolov12.log import say

USUAL_STEPS = ("Compose", "MixUp", "CutMix", "Albumentations", "RandomHSV", "RandomFlip", "RandomFlip", "Format")
"""What ultralytics' training transforms consist of (data/augment.py:2832, data/dataset.py:315)."""


class Obstacle(NamedTuple):
    """Why our loader can not stand in for ultralytics'."""

    reason: str
    typed: str = ""
    """The argument of the user that asks for it, as it is typed; then the two contradict each other."""


RECT = Obstacle("rect=True makes batches of several shapes", "rect=True")
AUGMENTATIONS = Obstacle("augmentations= names transforms that work on one picture at a time", "augmentations=")


def obstacle(dataset: Any, args: Any) -> Obstacle | None:
    """Why batches of this training set must come from ultralytics' own loader; None if they need not."""
    from ultralytics.data.dataset import YOLODataset

    from yolov12.data.augment import why_not

    if type(dataset) is not YOLODataset:
        return Obstacle(f"the data set is a {type(dataset).__name__}, which loads its pictures in its own way")
    if dataset.rect:
        return RECT
    if dataset.channels != 3:
        return Obstacle(f"pictures with {dataset.channels} channels")
    if getattr(args, "augmentations", None):
        return AUGMENTATIONS
    if getattr(args, "quantize", None) == 8:
        return Obstacle("quantize=8 calibrates with ultralytics' loader")
    has_segments = any(len(label.get("segments", ())) for label in dataset.labels)
    reason = why_not(args, args.task, has_segments, is_custom(dataset))
    return None if reason is None else Obstacle(reason)


def is_custom(dataset: Any) -> bool:
    """Whether its transforms are not those that ultralytics builds, or have the further ones that it adds where albumentations is installed."""
    steps = getattr(dataset.transforms, "transforms", [])
    if tuple(type(step).__name__ for step in steps) != USUAL_STEPS:
        return True
    return any(type(step).__name__ == "Albumentations" and step.transform is not None for step in steps)


def build(
    dataset: Any,
    args: Any,
    batch: int,
    plan: Plan,
    local_ranks: int,
    device: torch.device,
    cache_folder: Path | None,
) -> PictureLoader:
    """Our loader for a training set without an obstacle. Every rank must call it.

    Args:
        dataset: ultralytics', built with cache=False.
        args: ultralytics' arguments of the run.
        batch: images of a batch of this rank.
        plan: which samples this rank trains on, and when.
        local_ranks: processes that train on this machine; they share its cores.
        device: where pictures are decoded, if it can, and augmented.
        cache_folder: for the file of decoded pictures; None keeps none.
    """
    from yolov12.data.augment import Hyperparameters

    count, imgsz = len(dataset), int(dataset.imgsz)
    batch = min(batch, count)
    places, recent = _places(dataset, batch, device)
    workers = readers(args, local_ranks)
    cache = _cache(dataset, imgsz, workers, cache_folder) if cache_folder else None
    decoder, words = decoders.choose(device, workers)
    keeps = store.Store(places, imgsz, device)
    is_read_again = decoder is None and cache is None and places < count
    pool, who = _pool(dataset.im_files, imgsz, workers, batch, device) if is_read_again else (None, "threads")
    say(
        f"loader: reading {who}: {workers}; JPEG decoder: {words}; the last {places} of {count} pictures stay decoded on {device.type} "
        f"({store.bytes_of(places, imgsz) / 2**30:.2f} GiB)"
    )
    gatherer = Gatherer(dataset.im_files, imgsz, keeps, workers, decoder, cache, pool)
    preparer = Preparer(
        gatherer,
        Boxes(dataset.labels),
        Recent(recent),
        Hyperparameters.of(args, imgsz),
        seed=int(args.seed),
        rank=plan.rank,
    )
    return PictureLoader(dataset, preparer, Order(plan), batch, workers)


def _pool(
    files: Sequence[str], imgsz: int, count: int, batch: int, device: torch.device
) -> tuple[ReaderPool | None, str]:
    """(processes that read, "processes"), or None and why threads read.

    Beside a training on a GPU threads would compete with it for Python's lock. On a CPU the steps take far longer than the reading.
    """
    if device.type != "cuda":
        return None, "threads"
    try:
        return ReaderPool(files, imgsz, count, (READ_AHEAD + 1) * batch, device), "processes"
    except OSError as error:
        return None, f"threads (processes can not be had: {error})"


def readers(args: Any, local_ranks: int) -> int:
    """How many processes or threads of a rank read: its share of the machine's cores, at most `workers`."""
    return max(min(len(os.sched_getaffinity(0)) // local_ranks, int(args.workers)), 1)


def bytes_of_all(dataset: Any, batch: int, device: torch.device) -> int | None:
    """What all pictures of a training set take if they stay decoded on `device`; None where they do not fit.

    Args:
        dataset: ultralytics'.
        batch: images of a batch of this rank.
        device: that trains.
    """
    places, _ = _places(dataset, batch, device)
    return store.bytes_of(places, int(dataset.imgsz)) if places == len(dataset) else None


def _places(dataset: Any, batch: int, device: torch.device) -> tuple[int, int]:
    """`store.sizes` for this data set."""
    count = len(dataset)
    return store.sizes(count, min(batch, count), int(dataset.imgsz), store.limit_bytes(device))


def _cache(dataset: Any, imgsz: int, threads: int, folder: Path) -> cachefile.CacheFile | None:
    """The cache of decoded pictures, made now if need be; a line says where it is, or why there is none."""
    sizes = [fitted(label["shape"][0], label["shape"][1], imgsz) for label in dataset.labels]
    needed = sum(3 * height * width for height, width in sizes)

    def decode_all(keep: cachefile.Keep) -> None:
        say(f"picture cache: decoding {len(sizes)} pictures ({needed / 2**30:.2f} GiB)")
        _decode_all(dataset.im_files, imgsz, threads, keep)

    cache, words = cachefile.opened(folder, dataset.im_files, imgsz, needed, decode_all)
    say(
        f"picture cache: {words}" if cache else f"picture cache: none: {words}; pictures are decoded as they are needed"
    )
    return cache


def _decode_all(files: Sequence[str], imgsz: int, threads: int, keep: cachefile.Keep) -> None:
    """By the plain path, a few pictures ahead of the disk."""
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(files), 64 * threads):
            part = range(start, min(start + 64 * threads, len(files)))
            for one in pool.map(lambda index: on_the_cpu(index, files[index], imgsz, ""), part):
                if one.image is not None:
                    keep(one.index, one.image.numpy(), one.original)
