# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from yolov12.data import pictures
from yolov12.data.check import label_path
from yolov12.errors import UserError


def encoded(ending: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    return cv2.imencode(ending, noise)[1].tobytes()


def upstream_files(place: Path) -> list[str]:
    from ultralytics.data.base import BaseDataset

    return BaseDataset.get_img_files(SimpleNamespace(prefix="", fraction=1.0), str(place))


def test_the_endings_are_those_of_upstream():
    from ultralytics.data.utils import IMG_FORMATS

    assert pictures.FORMATS == IMG_FORMATS


def test_a_folder_lists_what_upstream_lists(tmp_path: Path):
    for name in ("b.jpg", "a.JPEG", "sub/deep/c.png", "d.txt", ".hidden.jpg", ".cache/e.jpg", "noending", "f.jpg.part"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "g.jpg").write_bytes(b"x")
    (tmp_path / "set" / "link").symlink_to(tmp_path / "elsewhere")
    found = pictures.listed([tmp_path / "set"])
    assert found == upstream_files(tmp_path / "set")
    assert [Path(path).name for path in found] == ["a.JPEG", "b.jpg", "g.jpg", "c.png"]


def test_a_text_file_lists_what_upstream_reads_from_it(tmp_path: Path):
    (tmp_path / "list.txt").write_text(
        "./images/a.jpg\n/abs/b.png\nrelative/c.jpg\n./notes.txt\n", encoding="utf-8-sig"
    )
    found = pictures.listed([tmp_path / "list.txt"])
    assert sorted(found) == sorted(upstream_files(tmp_path / "list.txt"))
    assert f"{tmp_path}/images/a.jpg" in found


def test_a_file_that_is_no_list_is_refused(tmp_path: Path):
    (tmp_path / "picture.jpg").write_bytes(encoded(".jpg"))
    with pytest.raises(UserError, match="neither a folder nor a readable list"):
        pictures.listed([tmp_path / "picture.jpg"])


@pytest.mark.parametrize(
    "image", ["/d/images/train/a.jpg", "/images/x/images/b.c.png", "/d/pics/a.jpg", "images/a.jpg"]
)
def test_labels_lie_where_upstream_looks_for_them(image: str):
    from ultralytics.data.utils import img2label_paths

    assert label_path(image) == img2label_paths([image])[0]


@pytest.mark.parametrize("ending", [".jpg", ".png", ".bmp", ".webp"])
def test_a_whole_picture_is_kept(ending: str, tmp_path: Path):
    path = tmp_path / f"a{ending}"
    path.write_bytes(encoded(ending))
    assert pictures.damage(str(path))[0] == "keep"


def test_a_picture_under_another_ending_is_kept(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(encoded(".png"))
    assert pictures.damage(str(tmp_path / "a.jpg")) == ("keep", "whole PNG")


@pytest.mark.parametrize(
    ("cut", "why"),
    [
        (lambda whole: whole[: len(whole) // 2], "truncated"),
        (lambda whole: b"", "empty file"),
        (lambda whole: b"hello", "not a picture"),
    ],
)
def test_a_broken_jpeg_is_skipped_with_the_reason(cut, why: str, tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(cut(encoded(".jpg")))
    verdict, reason = pictures.damage(str(tmp_path / "a.jpg"))
    assert verdict == "skip"
    assert why in reason


def test_a_webp_under_the_name_of_a_jpeg_is_kept(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(encoded(".webp"))
    assert pictures.damage(str(tmp_path / "a.jpg")) == ("keep", "another kind of picture")


def test_a_heic_picture_under_the_name_of_a_jpeg_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    verdict, reason = pictures.damage(str(tmp_path / "a.jpg"))
    assert verdict == "skip"
    assert "a HEIC picture under another name" in reason


def test_a_truncated_png_is_skipped(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded(".png")[:-20])
    assert pictures.damage(str(tmp_path / "a.png"))[0] == "skip"


def test_a_jpeg_with_something_after_its_end_is_announced_as_rewritten(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(encoded(".jpg") + b"trailer")
    assert pictures.damage(str(tmp_path / "a.jpg"))[0] == "rewrite"


def test_a_file_that_is_gone_is_skipped(tmp_path: Path):
    assert pictures.damage(str(tmp_path / "gone.jpg"))[0] == "skip"


@pytest.mark.parametrize("trailer", [b"", b"trailer"])
@pytest.mark.parametrize("kept", [1.0, 0.9, 0.5, 0.02])
def test_the_verdict_is_what_upstream_then_does(kept: float, trailer: bytes, tmp_path: Path):
    from ultralytics.data.utils import check_image

    path = tmp_path / "a.jpg"
    whole = encoded(".jpg")
    path.write_bytes(whole[: int(len(whole) * kept)] + trailer)
    before = path.read_bytes()
    verdict, _ = pictures.damage(str(path))
    assert path.read_bytes() == before
    try:
        inspect.unwrap(check_image)(str(path))  # not our stand-in, which asks for the verdict
    except (AssertionError, OSError, SyntaxError, ImportError):  # the last: ultralytics looks for a HEIF reader
        does = "skip"
    else:
        does = "keep" if path.read_bytes() == before else "rewrite"
    assert verdict == does
