# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a reading process answers, in this process: pixels as ultralytics' reader has them, or that a picture is for others."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.data.loader import zoo
from yolov12.data import reader
from yolov12.data.fit import fit_array
from yolov12.data.loader import plain

IMGSZ = 48


def answers(files: list[str], requests: bytes | None = None) -> tuple[list[tuple[int, ...]], np.ndarray]:
    slots = np.zeros((len(files), 3 * IMGSZ**2), np.uint8)
    found = io.BytesIO()
    asked = reader.packed([(number, number, file) for number, file in enumerate(files)])
    reader.serve(io.BytesIO(asked if requests is None else requests), found, slots, IMGSZ)
    return list(reader.ANSWER.iter_unpack(found.getvalue())), slots


def test_what_it_decodes_is_what_ultralytics_reads(tmp_path: Path):
    files = zoo.write(tmp_path, zoo.USABLE)
    found, slots = answers(files)
    assert [index for index, *_ in found] == list(range(len(files)))
    decoded = 0
    for index, slot, height, width, *original in found:
        if not height:
            continue
        expected = plain.decode(files[index])
        assert tuple(original) == expected.shape[:2]
        pixels = slots[slot, : 3 * height * width].reshape(height, width, 3)
        assert np.array_equal(pixels, fit_array(expected, IMGSZ)), files[index]
        decoded += 1
    assert decoded >= len(files) - 1  # a TIFF is for others


def test_what_can_not_be_decoded_is_for_others(tmp_path: Path):
    files = [*zoo.write(tmp_path, zoo.UNUSABLE), str(tmp_path / "gone.jpg"), str(tmp_path)]
    found = answers(files)[0]
    assert found[-2][2] == found[-1][2] == 0  # gone, and a folder
    for index, _, height, *_ in found:
        if height:  # damaged at its end only: then ultralytics' reader takes it, too
            assert plain.decode(files[index]).size


def test_a_tiff_is_for_others(tmp_path: Path):
    files = zoo.write(tmp_path, {"photo.tif": zoo.USABLE["photo.tif"]})
    assert answers(files)[0] == [(0, 0, 0, 0, 0, 0)]


@given(st.lists(st.text(min_size=1, max_size=30).filter(lambda name: "\0" not in name), max_size=5))
def test_any_path_gets_through(names: list[str]):
    found, _ = answers([f"/nowhere/{name}" for name in names])
    assert found == [(number, number, 0, 0, 0, 0) for number in range(len(names))]


def test_paths_that_are_no_text_get_through(tmp_path: Path):
    import os

    file = os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff\xfe.jpg")
    Path(file).write_bytes(zoo.USABLE["photo.jpg"]())
    assert answers([file])[0][0][2] > 0


@pytest.mark.parametrize("end", range(0, 60, 3))
def test_its_input_may_end_at_any_time(tmp_path: Path, end: int):
    files = zoo.write(tmp_path, {"photo.jpg": zoo.USABLE["photo.jpg"]})
    whole = reader.packed([(0, 0, files[0])])
    found, _ = answers(files, whole[: min(end, len(whole) - 1)])
    assert found == []


def test_it_needs_neither_torch_nor_ultralytics():
    code = f"import sys, {reader.__name__}; sys.exit(bool({{'torch', 'ultralytics'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
