# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolov12.data import labels
from yolov12.data.labels import Problem, Rules, check

THREE = Rules(classes=3)


def faults(text: str, rules: Rules = THREE) -> list[tuple[int, str]]:
    return [(problem.line, problem.what) for problem in check(text, rules)[1]]


def test_a_sound_file_has_objects_and_no_problems():
    assert check("0 .5 .5 .1 .1\n\n2 .2 .2 .1 .1\n", THREE) == (2, [])


def test_an_empty_file_is_background():
    assert check("\n \n", THREE) == (0, [])


def test_line_numbers_count_blank_lines():
    assert faults("\n0 .5 .5 .1 .1\n\n3 .5 .5 .1 .1\n") == [(4, "class 3, but `names` gives 3 classes (0-2)")]


def test_each_line_at_fault_is_named_once_and_in_order():
    text = "x .5 .5 .1 .1\n0 .5 .5 .1\n-1 .5 .5 .1 .1\n0 .5 .5 2 .1\n0 .5 .5 .1 .1\n"
    assert [line for line, _ in faults(text)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1.5 .5 .5 .1 .1", "class 1.5"),
        ("0 nan .5 .1 .1", "x_center is nan"),
        ("0 .5 .5 .1 inf", "height is inf"),
        ("0 .5 1.02 .1 .1", "y_center 1.02 is outside 0..1"),
        ("0 .5 .5 -1e-6 .1", "width -1e-06"),
        ("0 -.011 .5 .1 .1", "x_center -0.011"),
        ("0 .5 .5 .1 .1 1", "6 columns"),
        ("0 .1 .1 .2 .2 .3", "6 columns"),
        ("0 .1 .1 .2 .2 .3 .3 .4", "8 columns, a polygon has"),
        ("0 .1 .1 .2 .2 .3 1.5", "the polygon's height 1.4"),
    ],
)
def test_a_fault_is_told_in_the_words_of_the_format(row: str, words: str):
    (fault,) = faults(row)
    assert words in fault[1]


@pytest.mark.parametrize("row", ["0 1.01 .5 .1 .1", "0 -.01 .5 .1 .1", "0 .5 .5 1 1", "2 .5 .5 0 0"])
def test_what_upstream_forgives_is_forgiven(row: str):
    assert faults(row) == []


def test_a_box_among_polygons_is_at_fault():
    assert faults("0 .1 .1 .2 .2 .3 .3\n0 .5 .5 .1 .1\n") == [(2, "a box (5 columns) in a file that also has polygons")]


@pytest.mark.parametrize("task", ["segment", "obb"])
def test_a_task_with_polygons_refuses_boxes(task: str):
    ((line, what),) = faults("0 .5 .5 .1 .1", Rules(3, task))
    assert (line, task in what) == (1, True)


def test_one_class_set_counts_every_class_as_the_first():
    assert faults("7 .5 .5 .1 .1", Rules(1, single_class=True)) == []


def test_keypoints_need_their_columns():
    rules = Rules(1, "pose", (2, 3))
    assert faults("0 .5 .5 .1 .1 .2 .2 2 .3 .3 0", rules) == []
    assert "needs 11" in faults("0 .5 .5 .1 .1", rules)[0][1]
    assert "column 9" in faults("0 .5 .5 .1 .1 .2 .2 2 9 .3 0", rules)[0][1]


def test_a_box_task_reads_pose_labels_without_their_keypoints():
    assert faults("0 .5 .5 .1 .1 7 7 2", Rules(1, "detect", (1, 3))) == []


# What a word of a label file may be: mostly plausible, sometimes not.
coordinate = st.one_of(
    st.floats(-0.02, 1.02).map(lambda number: f"{number:.4f}"),
    st.sampled_from(
        ["0", "1", "1.01", "1.0100001", "-0.01", "-0.0100001", "nan", "inf", "-inf", "1e-3", "1_0", "x", "\u0663"]
    ),
)
class_word = st.sampled_from(["0", "1", "2", "3", "2.0", "0.5", "-1", "-0", "nan", "1e3"])


def row_of(columns: int) -> st.SearchStrategy[str]:
    return st.tuples(class_word, *[coordinate] * (columns - 1)).map(" ".join)


def sound_row(numbers: int) -> st.SearchStrategy[str]:
    return st.tuples(st.sampled_from("0123"), *[st.floats(0, 1.005).map(str)] * numbers).map(" ".join)


label_text = st.one_of(
    st.lists(row_of(5), max_size=4),
    st.lists(sound_row(4), max_size=3),
    st.lists(st.one_of(sound_row(6), sound_row(8)), max_size=3),
    st.lists(st.one_of(row_of(7), row_of(9)), max_size=3),
    st.lists(st.integers(1, 9).flatmap(row_of), max_size=3),
).map("\n".join)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "0.jpg"
    path.write_bytes(cv2.imencode(".jpg", np.zeros((32, 32, 3), np.uint8))[1].tobytes())
    return path


def upstream_drops(picture: Path, text: str, keypoints: tuple[int, int] | None, single_class: bool, pose: bool) -> bool:
    from ultralytics.data.utils import verify_image_label

    label = picture.with_suffix(".txt")
    label.write_text(text, encoding="utf-8")
    count, numbers = keypoints or (0, 0)
    with np.errstate(all="ignore"):
        result = verify_image_label((str(picture), str(label), "", pose, 3, count, numbers, single_class))
    return bool(result[8])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=label_text, single_class=st.booleans())
def test_a_file_has_problems_exactly_where_upstream_drops_the_picture(picture: Path, text: str, single_class: bool):
    problems = check(text, Rules(3, single_class=single_class))[1]
    assert bool(problems) == upstream_drops(picture, text, None, single_class, pose=False), problems


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.lists(st.one_of(row_of(11), row_of(5)), max_size=3).map("\n".join))
def test_a_pose_file_that_upstream_drops_has_problems(picture: Path, text: str):
    problems = check(text, Rules(3, "pose", (2, 3)))[1]
    assert problems or not upstream_drops(picture, text, (2, 3), False, pose=True)


@settings(deadline=None)
@given(text=label_text, task=st.sampled_from(["detect", "segment", "obb", "pose"]))
def test_the_short_cut_agrees_with_the_rules(text: str, task: str):
    rules = Rules(3, task, (2, 3))
    with pytest.MonkeyPatch.context() as patch:
        short = check(text, rules)
        patch.setattr(labels, "_plainly_sound", lambda *_: False)
        assert check(text, rules) == short


@pytest.mark.parametrize("text", ["", "0 .5 .5 .1 .1\n2 0 1 1 0", "1 0 0 1 1 0 1", "0 .1 .1 .9 .1 .9 .9 .1 .9"])
def test_ordinary_files_take_the_short_cut(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(labels, "_range_faults", lambda *_: pytest.fail("took the long way"))
    assert check(text, THREE)[1] == []


@given(st.text())
def test_any_text_gets_an_answer(text: str):
    objects, problems = check(text, THREE)
    assert len({problem.line for problem in problems}) == len(problems) <= objects
    assert all(isinstance(problem, Problem) and problem.what for problem in problems)
