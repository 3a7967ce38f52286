# SPDX-License-Identifier: AGPL-3.0-or-later
"""The file of decoded pictures: hit, miss, refusal, damage, and two who want it at once."""

from __future__ import annotations

import os
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolov12.data.loader import cachefile

IMGSZ = 32


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (8 + index, IMGSZ, 3), dtype=np.uint8)


class Decoding:
    """Counts how often all pictures were decoded; picture 2 can not be."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, keep: cachefile.Keep) -> None:
        self.times += 1
        for index in (1, 0, 3):  # threads finish in any order
            keep(index, picture(index), (100 + index, 400))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for index in range(4):
        (tmp_path / f"{index}.jpg").write_bytes(bytes([index]) * 10)
    return [str(tmp_path / f"{index}.jpg") for index in range(4)]


def opened(
    folder: Path, files: list[str], decoding: cachefile.DecodeAll, needed: int = 10_000
) -> tuple[cachefile.CacheFile | None, str]:
    return cachefile.opened(folder / "pictures", files, IMGSZ, needed, decoding)


def test_a_cache_is_written_once_and_then_read(tmp_path: Path, files: list[str]):
    decoding = Decoding()
    first, written = opened(tmp_path, files, decoding)
    second, read = opened(tmp_path, files, decoding)
    assert decoding.times == 1
    assert written.startswith("written to ")
    assert read.startswith("read from ")
    for cache in (first, second):
        assert cache is not None
        for index in (0, 1, 3):
            found = cache.picture(index)
            assert found is not None
            assert np.array_equal(found.image, picture(index))
            assert found.original == (100 + index, 400)
        assert cache.picture(2) is None


def test_the_pictures_of_a_cache_can_not_be_written_to(tmp_path: Path, files: list[str]):
    cache, _ = opened(tmp_path, files, Decoding())
    assert cache is not None
    found = cache.picture(0)
    assert found is not None
    with pytest.raises(ValueError, match="read-only"):
        found.image[0] = 0


@pytest.mark.parametrize("change", ["content", "time", "gone"])
def test_a_data_set_that_changed_is_decoded_anew_into_the_same_file(tmp_path: Path, files: list[str], change: str):
    decoding = Decoding()
    opened(tmp_path, files, decoding)
    if change == "content":
        Path(files[1]).write_bytes(b"more than before")
    elif change == "time":
        os.utime(files[1], ns=(0, 0))
    else:
        Path(files[1]).unlink()
    _, words = opened(tmp_path, files, decoding)
    assert decoding.times == 2
    assert "in place of one of other pictures" in words
    assert len(list((tmp_path / "pictures").glob("*.u8"))) == 1


def test_another_image_size_has_a_file_of_its_own(tmp_path: Path, files: list[str]):
    decoding = Decoding()
    for imgsz in (32, 64):
        cachefile.opened(tmp_path / "pictures", files, imgsz, 10_000, decoding)
    assert decoding.times == 2
    assert len(list((tmp_path / "pictures").glob("*.u8"))) == 2


def test_a_disk_without_room_is_refused_before_anything_is_decoded(
    tmp_path: Path, files: list[str], monkeypatch: pytest.MonkeyPatch
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cachefile.shutil, "disk_usage", lambda _: usage(0, 0, 2**30))
    decoding = Decoding()
    cache, words = opened(tmp_path, files, decoding, needed=2**31)
    assert cache is None
    assert decoding.times == 0
    assert words.endswith("has 1.00 GiB free and 2.10 GiB are needed")


def test_a_disk_that_fills_up_meanwhile_leaves_no_file(tmp_path: Path, files: list[str]):
    def full(keep: cachefile.Keep) -> None:
        keep(0, picture(0), (1, 1))
        raise OSError(28, "No space left on device")

    cache, words = cachefile.opened(tmp_path / "pictures", files, IMGSZ, 100, full)
    assert cache is None
    assert words.startswith("not written (no room to save")
    assert [file.suffix for file in (tmp_path / "pictures").iterdir()] == [".lock"]


def test_a_folder_that_can_not_be_made_is_a_reason(tmp_path: Path, files: list[str]):
    (tmp_path / "pictures").write_text("a file")
    cache, words = opened(tmp_path, files, Decoding())
    assert cache is None
    assert words.startswith("not written (")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1), st.binary(max_size=80))
def test_a_damaged_file_is_never_taken_for_a_cache(tmp_path: Path, files: list[str], where: float, noise: bytes):
    opened(tmp_path, files, Decoding())
    file, key = cachefile.place(tmp_path / "pictures", files, IMGSZ), cachefile.key_of(files, IMGSZ)
    whole = file.read_bytes()
    at = int(where * (len(whole) - 1))
    try:
        for damaged in (whole[:at], whole + b"x", noise + whole[len(noise) + 1 :], noise):
            file.write_bytes(damaged)
            with pytest.raises(ValueError):
                cachefile.CacheFile(file, key)
    finally:
        file.write_bytes(whole)


def test_who_wants_it_at_the_same_time_waits_for_the_one_that_makes_it(tmp_path: Path, files: list[str]):
    """Threads stand for processes: each opens the lock for itself, and that is what it holds."""
    begun, both_wait = threading.Event(), threading.Event()
    decoding = Decoding()

    def slowly(keep: cachefile.Keep) -> None:
        begun.set()
        both_wait.wait(5)
        decoding(keep)

    with ThreadPoolExecutor(2) as pool:
        maker = pool.submit(opened, tmp_path, files, slowly)
        begun.wait(5)
        other = pool.submit(opened, tmp_path, files, slowly)
        assert not other.done()
        both_wait.set()
        assert maker.result()[1].startswith("written to")
        assert other.result()[1].startswith("read from")
    assert decoding.times == 1
