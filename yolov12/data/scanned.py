# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an earlier scan of a split found, if nothing changed since: then a check before training need not read every file again.

The scan's result lies in our label cache beside the labels (labelcache.py), with a hash over the path, size and time of each picture and label
file, as ultralytics computes it (data/utils.py:228, data/dataset.py:179 of 8.4.190).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

from yolov12.data import labelcache

CACHE_VERSION = "1.0.12"
"""ultralytics' DATASET_CACHE_VERSION (data/dataset.py:61)."""


class Scanned(NamedTuple):
    """Of one split."""

    objects: int
    unlabelled: int
    """Pictures without a label file."""
    cache: Path


def unchanged(images: list[str], labels: list[str], classes: int, keypoints: Any, single_class: bool) -> Scanned | None:
    """What the scan of a detection set's split found, or None if there is none, something changed, or it found anything at fault.

    Args:
        images, labels: paths, in the order of a scan.
        classes: how many the run has.
        keypoints: `kpt_shape` of the data yaml, as it stands there.
    """
    cache = labelcache.place(Path(labels[0]).parent)
    try:
        found = labelcache.load(cache)
        _, missing, _, corrupt, total = found["results"]
        if found["version"] != CACHE_VERSION or corrupt or found["msgs"] or total != len(images):
            return None
        if found["hash"] != _hash([*labels, *images, str((False, classes, keypoints, single_class))]):
            return None
        return Scanned(sum(len(label["cls"]) for label in found["labels"]), missing, cache)
    except (OSError, labelcache.UnreadableError, KeyError, TypeError, ValueError):
        return None  # no cache, or one of another make: the files are read, which is the rule anyway


def _hash(paths: list[str]) -> str:
    """ultralytics' get_hash (data/utils.py:228)."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path) + b"\0")
        try:
            stat = os.stat(path)
        except OSError:
            digest.update(b"\0")
            continue
        digest.update(f"{stat.st_size}:{stat.st_mtime_ns}".encode() + b"\0")
    return digest.hexdigest()
