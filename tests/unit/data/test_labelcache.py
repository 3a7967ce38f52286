# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

import json
import os
import pickle
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from yolov12.data import labelcache
from yolov12.errors import RetryableError


def same(left: Any, right: Any) -> bool:
    """Equal in type, structure, number format and bits."""
    if type(left) is not type(right):
        return False
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right or left != left  # NaN


def boxes(count: int) -> dict[str, Any]:
    table = np.arange(count * 5, dtype=np.float32).reshape(count, 5)
    return {
        "im_file": "/d/images/train/a.jpg",
        "shape": (480, 640),
        "cls": table[:, 0:1],  # a view with gaps, as a scan makes it
        "bboxes": table[:, 1:],
        "segments": [],
        "keypoints": None,
        "normalized": True,
        "bbox_format": "xywh",
    }


def cache_of(labels: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "labels": labels,
        "hash": "ab" * 32,
        "results": (1, 0, 0, 0, 1),
        "msgs": ["train: a note"],
        "version": "1.0.12",
    }


ragged = [np.ones((3, 2), np.float32), np.zeros((7, 2), np.float32), np.empty((0, 2), np.float32)]
STRUCTURES: dict[str, Any] = {
    "detect": cache_of([boxes(2), boxes(0)]),
    "segment": cache_of([boxes(3) | {"segments": ragged}]),
    "obb": cache_of([boxes(1) | {"segments": [np.ones((4, 2), np.float32)]}]),
    "pose": cache_of([boxes(2) | {"keypoints": np.ones((2, 17, 3), np.float32)}]),
    "classify": {
        "results": (2, 0, 2, [("/d/cat/a.jpg", 0), ("/d/dog/b.jpg", 1)]),
        "hash": "x",
        "msgs": [],
        "version": "1",
    },
    "grounding": cache_of([boxes(1) | {"im_file": Path("/d/a.jpg"), "texts": [["a cat"], ["dog"]]}]),
    "semantic": cache_of([boxes(0) | {"mask_file": "/d/masks/a.png", "mode": "L", "cls": np.array([], np.float32)}]),
}


@pytest.mark.parametrize("task", STRUCTURES)
def test_what_a_scan_found_comes_back_exactly(task: str, tmp_path: Path):
    file = tmp_path / "train.yolov12-cache"
    labelcache.save(file, STRUCTURES[task])
    assert same(labelcache.load(file), STRUCTURES[task])


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None))
arrays = numpy_st.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
    numpy_st.array_shapes(min_dims=0, min_side=0),
)
trees = st.recursive(
    plain | arrays | st.text("abc/", min_size=1).map(Path),
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(st.text(), inner)),
    max_leaves=12,
)


@given(trees)
def test_any_tree_comes_back_exactly(tree: Any):
    coded, flat = labelcache.encode(tree)
    assert same(labelcache.decode(json.loads(json.dumps(coded)), flat), tree)


def test_arrays_come_back_writable(tmp_path: Path):
    labelcache.save(tmp_path / "a", STRUCTURES["detect"])
    labels = labelcache.load(tmp_path / "a")["labels"]
    labels[0]["cls"][:] = 9
    assert labels[0]["bboxes"].tolist() == boxes(2)["bboxes"].tolist()


@pytest.mark.parametrize("value", [object(), {1: 2}, np.array([None]), np.array(["text"]), np.float32(1), {1, 2}])
def test_what_has_no_place_is_refused_and_nothing_is_written(value: Any, tmp_path: Path):
    with pytest.raises(labelcache.NotStorableError):
        labelcache.save(tmp_path / "a", {"labels": [value]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_file_that_is_cut_short_is_unreadable(keep: int, tmp_path: Path):
    file = tmp_path / "a"
    labelcache.save(file, STRUCTURES["detect"])
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(labelcache.UnreadableError):
        labelcache.load(file)


def test_no_flipped_byte_goes_unnoticed(tmp_path: Path):
    file = tmp_path / "a"
    labelcache.save(file, STRUCTURES["detect"])
    whole = file.read_bytes()
    for position in range(0, len(whole), 7):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        with pytest.raises(labelcache.UnreadableError):
            labelcache.load(file)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_in_its_place_is_unreadable_and_does_not_run(tmp_path: Path):
    file = tmp_path / "a"
    file.write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(labelcache.UnreadableError):
        labelcache.load(file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"arrays": [["O", 1]], "tree": 1}',
        '{"arrays": [], "tree": {"a": [0, 0, 1]}}',
        '{"arrays": [["<f4", 1]], "tree": {"a": [0, 0, 7]}}',
        '{"arrays": [], "tree": {"x": 1}}',
        '{"arrays": [], "tree": {"d": 1, "t": 2}}',
        '{"arrays": [], "tree": ' + "[" * 5000 + "]" * 5000 + "}",
        "not json",
    ],
)
def test_a_forged_file_with_a_right_checksum_is_unreadable(text: str, tmp_path: Path):
    coded = text.encode()
    body = struct.pack("<Q", len(coded)) + coded.ljust(96, b" ")
    (tmp_path / "a").write_bytes(labelcache._MAGIC + struct.pack("<Q", zlib.crc32(body)) + body)
    with pytest.raises(labelcache.UnreadableError):
        labelcache.load(tmp_path / "a")


def test_a_missing_file_is_just_missing(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        labelcache.load(tmp_path / "a")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "a"
    labelcache.save(file, {"labels": ["old"]})

    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(RetryableError, match="No space"):
        labelcache.save(file, {"labels": ["new"]})
    assert labelcache.load(file) == {"labels": ["old"]}
    assert list(tmp_path.iterdir()) == [file]


def test_readers_beside_a_writer_meet_a_whole_file(tmp_path: Path):
    file = tmp_path / "a"
    labelcache.save(file, STRUCTURES["segment"])
    writer = threading.Thread(target=lambda: [labelcache.save(file, STRUCTURES["segment"]) for _ in range(30)])
    writer.start()
    while writer.is_alive():
        assert same(labelcache.load(file), STRUCTURES["segment"])
    writer.join()


def test_the_name_is_not_that_of_stock():
    assert labelcache.place(Path("/d/labels/train.cache")) == Path("/d/labels/train.yolov12-cache")
