# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from yolov12.data import adapter, fonts, synth


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    adapter.install()


def test_the_bundled_font_is_there_and_draws():
    assert fonts.bundled().is_file()
    assert ImageFont.truetype(str(fonts.bundled()), 12).getbbox("circle")[2] > 10


def test_without_any_arial_the_bundled_font_is_taken_and_nothing_is_written(tmp_path: Path):
    assert fonts.find("No such font.ttf", tmp_path) == (
        fonts.bundled(),
        "comes with matplotlib; No such font.ttf is not here",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_font_that_the_user_put_there_wins(tmp_path: Path):
    (tmp_path / "Arial.ttf").write_bytes(b"")
    assert fonts.find("Arial.ttf", tmp_path) == (tmp_path / "Arial.ttf", "put there by the user")


def test_a_font_named_by_its_path_is_taken(tmp_path: Path):
    (tmp_path / "mine.ttf").write_bytes(b"")
    assert fonts.find(str(tmp_path / "mine.ttf"), tmp_path / "config")[0] == tmp_path / "mine.ttf"


def test_an_installed_font_is_found_by_name(tmp_path: Path):
    path, reason = fonts.find("DejaVuSerif.ttf", tmp_path)
    assert (path.name, reason) == ("DejaVuSerif.ttf", "installed on this system")


LETTERS = {
    "Latin": "Gr\u00fc\u00dfe \u017elu\u0165ou\u010dk\u00fd \u0130stanbul",
    "Greek": "\u03b1\u03b2\u03b3\u03b4",
    "Cyrillic": "\u043a\u043e\u0442 \u0457\u0436\u0430\u043a",
    "Armenian": "\u056f\u0561\u057f\u0578\u0582",
    "Georgian": "\u10d9\u10d0\u10e2\u10d0",
    "Hebrew": "\u05d7\u05ea\u05d5\u05dc",
    "Arabic": "\u0642\u0637\u0629",
}
MISSING = {
    "Chinese": "\u732b",
    "Japanese": "\u306d\u3053",
    "Korean": "\uace0\uc591\uc774",
    "Thai": "\u0e41\u0e21\u0e27",
    "Devanagari": "\u092c\u093f\u0932\u094d\u0932\u0940",
}


def missing_glyphs(text: str) -> set[str]:
    """Letters that the font draws as it draws a letter which no font has."""
    font = ImageFont.truetype(str(fonts.bundled()), 32)
    unknown = font.getmask("\U0010fffd").getbbox(), bytes(font.getmask("\U0010fffd"))
    return {letter for letter in text if (font.getmask(letter).getbbox(), bytes(font.getmask(letter))) == unknown}


@pytest.mark.parametrize("script", LETTERS)
def test_the_scripts_that_the_docs_promise_are_covered(script: str):
    assert missing_glyphs(LETTERS[script]) == set()


@pytest.mark.parametrize("script", MISSING)
def test_the_scripts_that_the_docs_exclude_are_indeed_missing(script: str):
    assert missing_glyphs(MISSING[script])


@pytest.mark.parametrize("names", [{0: "circle"}, {0: "\u043a\u0440\u0443\u0433"}])
def test_a_mosaic_of_a_batch_is_drawn_without_the_network(names: dict[int, str], tmp_path: Path):
    import torch
    from ultralytics.utils.plotting import plot_images

    labels = {
        "img": torch.zeros(1, 3, 64, 64),
        "cls": torch.zeros(1, 1),
        "bboxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]]),
        "batch_idx": torch.zeros(1),
    }
    plot_images(labels, paths=["a.jpg"], fname=tmp_path / "plot.jpg", names=names, threaded=False)
    assert np.asarray(Image.open(tmp_path / "plot.jpg")).max() > 100


def test_who_needs_other_letters_is_told_once_where_to_put_a_font(capsys: pytest.CaptureFixture[str]):
    from ultralytics.utils import USER_CONFIG_DIR, checks

    from yolov12 import log

    log._said.discard("font")
    fonts.check_font.cache_clear()
    path = checks.check_font("Arial.Unicode.ttf")
    told = capsys.readouterr().err
    if path == fonts.bundled():
        assert str(USER_CONFIG_DIR / "Arial.Unicode.ttf") in told
    checks.check_font("Arial.Unicode.ttf")
    assert capsys.readouterr().err == ""


def test_it_is_told_when_the_data_set_is_checked(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    from ultralytics.data import utils

    from yolov12 import log

    monkeypatch.setattr(fonts, "_installed", lambda font: None)
    log._said.discard("font")
    fonts.check_font.cache_clear()
    utils.check_font("Arial.ttf")
    assert capsys.readouterr().err == ""
    utils.check_font("Arial.Unicode.ttf")
    assert "DejaVu Sans draws the class names" in capsys.readouterr().err
    fonts.check_font.cache_clear()


CHECK = """
import sys
from ultralytics.data import utils
from yolov12.data import adapter
adapter.install()
utils.check_det_dataset(sys.argv[1])
print("matplotlib" in sys.modules)
"""


def test_checking_a_data_set_looks_for_no_font(tmp_path: Path):
    data = synth.write(tmp_path / "data", n_train=1, n_val=1, imgsz=64)
    done = subprocess.run([sys.executable, "-c", CHECK, str(data)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
