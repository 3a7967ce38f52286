# SPDX-License-Identifier: AGPL-3.0-or-later
"""Label caches without pickle: what a scan of a data set found, kept so that the next start need not read every file again.

Stock ultralytics pickles this dictionary (data/utils.py:984-1025 of 8.4.190), so opening somebody's data folder can run somebody's code.
Here the same tree of dictionaries, lists, tuples, texts, numbers and arrays becomes one `.npz` file: the arrays are joined by number
format, the rest is JSON that says where each array lies. It is read with pickle forbidden. Stock's file is left alone: it is never
opened, and ours has another name, so each side rescans rather than reading the other's.
"""

from __future__ import annotations

import gc
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SUFFIX = ".yolov12-cache"
_TREE = "tree"


class NotStorableError(TypeError):
    """The value holds something that this format has no place for."""


class UnreadableError(ValueError):
    """The file is cut short, damaged, or no label cache."""


def place(stock_path: Path) -> Path:
    """Where our cache lies for the path that stock would use: `labels/train.cache` -> `labels/train.yolov12-cache`."""
    return Path(stock_path).with_suffix(SUFFIX)


def save(path: Path, value: Any) -> None:
    """Write `value` to `path`: aside first, then fsync, then rename, so that a reader meets the old file or the whole new one.

    Raises:
        NotStorableError: `value` holds an object other than None, bool, int, float, str, list, tuple, dict with text keys, Path or plain array.
        OSError: the folder can not be written, or the disk is full.
    """
    tree, arrays = encode(value)
    text = json.dumps(tree, separators=(",", ":")).encode("ascii")
    members: dict[str, Any] = {f"array{index}": array for index, array in enumerate(arrays)}
    members[_TREE] = np.frombuffer(text, np.uint8)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            np.savez(file, **members)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def load(path: Path) -> Any:
    """Read what `save` wrote. Arrays come back writable, and those of one number format share one block of memory.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: the file is damaged or something else.
    """
    try:
        with open(path, "rb") as file, _no_garbage_collection():
            if not zipfile.is_zipfile(file):  # np.load would try other formats
                raise UnreadableError(f"{path} is no label cache, or is cut short")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                tree = json.loads(stored[_TREE].tobytes())
                arrays = [stored[f"array{index}"] for index in range(len(stored.files) - 1)]
            return decode(tree, arrays)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        KeyError,
        IndexError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:
        raise UnreadableError(f"{path} is damaged ({type(error).__name__}: {error})") from error


def encode(value: Any) -> tuple[Any, list[np.ndarray]]:
    """Split `value` into a JSON tree and flat arrays, one per number format.

    In the tree a list, text, number, bool or None stands for itself; everything else is an object with one key that names its kind: `d`
    dictionary, `t` tuple, `p` path, `a` array as [which flat array, where it starts, *shape].
    """
    pieces: dict[str, list[np.ndarray]] = {}
    lengths: dict[str, int] = {}

    def node(item: Any) -> Any:
        if item is None or type(item) in (bool, int, float, str):
            return item
        if type(item) is list:
            return [node(each) for each in item]
        if type(item) is tuple:
            return {"t": [node(each) for each in item]}
        if type(item) is dict:
            if not all(type(key) is str for key in item):
                raise NotStorableError(
                    f"dictionary keys must be text, not {sorted({type(key).__name__ for key in item})}"
                )
            return {"d": {key: node(each) for key, each in item.items()}}
        if isinstance(item, Path):
            return {"p": str(item)}
        if isinstance(item, np.ndarray) and item.dtype.kind in "biuf":
            kind = item.dtype.str
            start = lengths.get(kind, 0)
            lengths[kind] = start + item.size
            pieces.setdefault(kind, []).append(item.ravel())
            return {"a": [list(lengths).index(kind), start, *item.shape]}
        raise NotStorableError(f"a label cache has no place for {type(item).__name__}")

    tree = node(value)  # fills `pieces`
    return tree, [np.concatenate(flat) for flat in pieces.values()]


def decode(tree: Any, arrays: list[np.ndarray]) -> Any:
    """The inverse of `encode`."""
    if type(tree) is list:
        return [decode(each, arrays) for each in tree]
    if type(tree) is not dict:
        return tree
    ((kind, body),) = tree.items()
    if kind == "d":
        return {key: decode(each, arrays) for key, each in body.items()}
    if kind == "t":
        return tuple([decode(each, arrays) for each in body])
    if kind == "a":
        which, start, *shape = body
        size = int(np.prod(shape, dtype=np.int64))
        return arrays[which][start : start + size].reshape(shape)
    if kind == "p":
        return Path(body)
    raise UnreadableError(f"unknown kind {kind!r}")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A large tree is millions of new containers and no garbage: collecting while it grows costs more than reading it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
