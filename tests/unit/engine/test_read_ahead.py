# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files that are decoded ahead come in ultralytics' batches, with its words, and leave no thread behind."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ultralytics.data.loaders import LoadImagesAndVideos, LoadPilAndNumpy

from yolov12.engine import read_ahead as module
from yolov12.engine.read_ahead import FILES_PER_THREAD, Pictures, ReadAhead, read_ahead

COUNT = 11


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(COUNT):
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), np.full((8, 8 + i, 3), i, np.uint8))
    return tmp_path


def letterbox(pictures: list[np.ndarray]) -> list[np.ndarray]:
    return [picture[:4] for picture in pictures]


def ahead(folder: Path, batch: int = 1) -> Any:
    return read_ahead(LoadImagesAndVideos(str(folder), batch=batch), letterbox, threads=3)


def assert_same_batches(folder: Path, batch: int) -> None:
    ours, theirs = ahead(folder, batch), LoadImagesAndVideos(str(folder), batch=batch)
    assert len(ours) == len(theirs)
    for _ in range(2):  # it can be gone through again
        batches = list(ours)
        expected = list(theirs)
        assert len(batches) == len(expected)
        for (paths, pictures, words), (their_paths, their_pictures, their_words) in zip(batches, expected, strict=True):
            assert (paths, words) == (their_paths, their_words)
            for one, boxed, other in zip(pictures, pictures.letterboxed, their_pictures, strict=True):
                assert np.array_equal(one, other)
                assert np.array_equal(boxed, other[:4])


@pytest.mark.parametrize("batch", [1, 3, 8, COUNT, 50])
def test_batches_are_ultralytics(folder, batch):
    assert_same_batches(folder, batch)


@pytest.mark.parametrize("broken", [(0,), (4, 5), (COUNT - 1,), tuple(range(COUNT))])
@pytest.mark.parametrize("batch", [1, 3])
def test_files_that_can_not_be_read_are_skipped_with_ultralytics_words(folder, caplog, broken, batch):
    for i in broken:
        (folder / f"{i:02}.png").write_bytes(b"no picture")
    assert_same_batches(folder, batch)
    said = []
    for source in (ahead(folder, batch), LoadImagesAndVideos(str(folder), batch=batch)):
        caplog.clear()
        list(source)
        said.append(caplog.messages)
    assert said[0] == said[1]
    assert len(said[0]) == len(broken)


def test_only_so_many_files_are_decoded_ahead(folder, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(module, "imread", lambda path, flags: asked.append(path) or np.zeros((8, 8, 3), np.uint8))
    source = iter(ahead(folder))
    next(source)
    source.close()
    assert len(asked) <= 1 + FILES_PER_THREAD * 3 < COUNT


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pictures")]


def test_no_thread_stays(folder):
    source = ahead(folder)
    list(source)
    next(iter(source))
    assert threads()
    source.close()
    for thread in threading.enumerate():
        if thread.name.startswith("pictures"):
            thread.join(10)
    assert not threads()


def test_an_error_of_a_decoder_comes_at_its_file(folder, monkeypatch):
    def fails(path: str, flags: int) -> np.ndarray:
        if path.endswith("02.png"):
            raise MemoryError("no room for this picture")
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(module, "imread", fails)
    source = iter(ahead(folder))
    next(source)
    next(source)
    with pytest.raises(MemoryError, match="no room for this picture"):
        next(source)
    source.close()


def test_what_is_no_folder_of_pictures_stays_as_it_is(folder):
    one = LoadImagesAndVideos(str(folder / "00.png"))
    arrays = LoadPilAndNumpy([np.zeros((8, 8, 3), np.uint8)] * 3)
    some = LoadImagesAndVideos(str(folder))
    assert read_ahead(one, letterbox, threads=3) is one
    assert read_ahead(arrays, letterbox, threads=3) is arrays
    assert read_ahead(some, letterbox, threads=1) is some
    cv2.imwrite(str(folder / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (folder / "a.png").rename(folder / "a.heic")
    lazy = LoadImagesAndVideos(str(folder))
    assert read_ahead(lazy, letterbox, threads=3) is lazy


def test_a_batch_is_a_list_of_its_pictures(folder):
    source = ahead(folder, batch=2)
    assert isinstance(source, ReadAhead)
    _, pictures, _ = next(iter(source))
    assert isinstance(pictures, list)
    assert isinstance(pictures, Pictures)
    source.close()
