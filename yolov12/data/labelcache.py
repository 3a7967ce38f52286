# SPDX-License-Identifier: AGPL-3.0-or-later
"""Label caches without pickle: what a scan of a data set found, kept so that the next start need not read every file again.

Stock ultralytics pickles this dictionary (data/utils.py:984-1025 of 8.4.190), so opening somebody's data folder can run somebody's code.
Here the same tree of dictionaries, lists, tuples, texts, numbers and arrays becomes JSON that says where each array lies, followed by the
arrays' bytes, joined by number format. Stock's file is left alone: it is never opened, and ours has another name, so each side rescans
rather than reading the other's.

    16 bytes  "yolov12-labels1\n"
     8 bytes  checksum (crc32) of all that follows it
     8 bytes  length of the JSON
    JSON      {"arrays": [[number format, how many], ...], "tree": see `encode`}
    arrays    one after the other, each beginning at a multiple of 64 bytes
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from yolov12.uncollected import uncollected
from yolov12.wholefile import replacing

SUFFIX = ".yolov12-cache"
_MAGIC = b"yolov12-labels1\n"
_HEAD = struct.Struct("<16sQQ")
_ALIGNMENT = 64
_STORABLE_KINDS = "biuf"
"""Numbers only: a format with objects in it could run code."""


class NotStorableError(TypeError):
    """The value holds something that this format has no place for."""


class UnreadableError(ValueError):
    """The file is cut short, damaged, or no label cache."""


def place(stock_path: Path) -> Path:
    """Where our cache lies for the path that stock would use: `labels/train.cache` -> `labels/train.yolov12-cache`."""
    return Path(stock_path).with_suffix(SUFFIX)


def save(path: Path, value: Any) -> None:
    """Write `value` to `path`: a reader meets the old file or the whole new one.

    Raises:
        NotStorableError: `value` holds something else than None, bool, int, float, str, list, tuple, dict with text keys, Path, plain arrays.
        UserError: the folder can not be written to.
        RetryableError: the disk is full.
    """
    tree, arrays = encode(value)
    formats = [[array.dtype.str, array.size] for array in arrays]
    text = json.dumps({"arrays": formats, "tree": tree}, separators=(",", ":")).encode("ascii")
    body = [struct.pack("<Q", len(text)), *_padded(_HEAD.size, text)]
    for array in arrays:
        body += _padded(0, array.tobytes())
    checksum = 0
    for piece in body:
        checksum = zlib.crc32(piece, checksum)
    with replacing(path) as part, open(part, "wb") as file:
        file.writelines([_MAGIC, struct.pack("<Q", checksum), *body])


def load(path: Path) -> Any:
    """Read what `save` wrote. Arrays come back writable, all in one block of memory.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableError: the file is damaged or something else.
    """
    block = np.fromfile(path, np.uint8)
    if block.size < _HEAD.size:
        raise UnreadableError(f"{path} is cut short")
    magic, checksum, text_bytes = _HEAD.unpack(block[: _HEAD.size].tobytes())
    if magic != _MAGIC:
        raise UnreadableError(f"{path} is no label cache")
    if zlib.crc32(block.data[len(_MAGIC) + 8 :]) != checksum:
        raise UnreadableError(f"{path} is damaged")
    try:
        with uncollected():
            return _read(block, text_bytes)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path} is no label cache ({type(error).__name__}: {error})") from error


def _read(block: np.ndarray, text_bytes: int) -> Any:
    head = json.loads(block[_HEAD.size : _HEAD.size + text_bytes].tobytes())
    start = _aligned(_HEAD.size + text_bytes)
    arrays = []
    for number_format, count in head["arrays"]:
        dtype = np.dtype(number_format)
        if dtype.kind not in _STORABLE_KINDS:
            raise UnreadableError(f"number format {number_format!r}")
        arrays.append(block[start : start + count * dtype.itemsize].view(dtype))
        start = _aligned(start + count * dtype.itemsize)
    return decode(head["tree"], arrays)


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT


def _padded(before: int, content: bytes) -> list[bytes]:
    """`content`, which begins at position `before`, and the zeros up to the next multiple of the alignment."""
    end = before + len(content)
    return [content, bytes(_aligned(end) - end)]


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
        if isinstance(item, np.ndarray) and item.dtype.kind in _STORABLE_KINDS:
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
        return _decode_each(tree, arrays)
    if type(tree) is not dict:
        return tree
    ((kind, body),) = tree.items()
    if kind == "d":
        # Written out for speed: most of a large cache is leaves of dictionaries.
        return {key: decode(each, arrays) if type(each) in (dict, list) else each for key, each in body.items()}
    if kind == "t":
        return tuple(_decode_each(body, arrays))
    if kind == "a":
        which, start, *shape = body
        return arrays[which][start : start + math.prod(shape)].reshape(shape)
    if kind == "p":
        return Path(body)
    raise UnreadableError(f"unknown kind {kind!r}")


def _decode_each(trees: list[Any], arrays: list[np.ndarray]) -> list[Any]:
    return [decode(each, arrays) if type(each) in (dict, list) else each for each in trees]
