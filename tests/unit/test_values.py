# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which values are refused, compared with what the pinned ultralytics refuses itself."""

from __future__ import annotations

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ultralytics.cfg import DEFAULT_CFG_DICT, check_cfg

from yolov12 import arguments, values
from yolov12.errors import UserError

STRICTER = ("imgsz", "batch", "workers", *values.OWN)
"""Keys about which ultralytics finds out later, or not at all."""
COMMON_VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    0.5,
    1.5,
    -0.1,
    3.0,
    1e2,
    "",
    "yes",
    "8",
    "int8",
    [1],
    [0.2, 0.8],
    (0.5, 2.0),
]
TYPED_KEYS = sorted(
    set(arguments.ultralytics_defaults()) - {*STRICTER, *arguments.RENAMED, *arguments.REMOVED, "amp", "compile"}
)


def refused_here(key, value) -> bool:
    try:
        values.check({key: value})
    except UserError:
        return True
    return False


def refused_by_ultralytics(key, value) -> bool:
    try:
        check_cfg({**DEFAULT_CFG_DICT, key: value})
    except (TypeError, ValueError):
        return True
    return False


@given(st.sampled_from(TYPED_KEYS), st.sampled_from(COMMON_VALUES) | st.floats(-3, 3) | st.integers(-3, 3))
def test_what_ultralytics_refuses_is_refused_and_nothing_else(key, value):
    assert refused_here(key, value) == refused_by_ultralytics(key, value)


@given(
    st.sampled_from(["fraction", "scale"]),
    st.sampled_from(COMMON_VALUES) | st.lists(st.floats(0, 2) | st.integers(0, 3)),
)
def test_the_two_keys_of_several_shapes_are_read_as_ultralytics_reads_them(key, value):
    assert refused_here(key, value) == refused_by_ultralytics(key, value)


@pytest.mark.parametrize("key", sorted(values.OWN))
def test_the_defaults_of_ultralytics_are_taken(key):
    values.check({key: arguments.ultralytics_defaults()[key]})


def test_the_optimizers_are_those_of_ultralytics():
    from ultralytics.engine.trainer import BaseTrainer

    (listed,) = re.findall(r"optimizers = \{(.*?)\}", inspect.getsource(BaseTrainer.build_optimizer))
    assert {name.strip('" ') for name in listed.split(",")} == set(values.OPTIMIZERS)


def test_the_export_formats_are_those_of_ultralytics():
    from ultralytics.engine.exporter import Exporter, export_formats

    assert set(values.FORMATS) == set(export_formats()["Argument"][1:])
    aliases = re.findall(r"if fmt in \{(.*?)\}:", inspect.getsource(Exporter.__call__))
    listed = {name.strip('" ') for names in aliases for name in names.split(",")}
    assert set(values.FORMAT_ALIASES) <= listed


def test_the_formats_of_ours_are_those_that_export_knows():
    from yolov12.export import aoti_request

    assert values.OUR_FORMATS == aoti_request.NAMES
    for name in aoti_request.NAMES:
        values.check({"format": name})


@pytest.mark.parametrize("classes", [0, 79, [0], [0, 2], (1, 3), None])
def test_classes_are_named_by_number(classes):
    values.check({"classes": classes})


@pytest.mark.parametrize("classes", ["person", -1, 1.5, True, [], [0, "person"], [0, -1]])
def test_what_would_fail_in_the_middle_of_a_prediction_is_no_class(classes):
    with pytest.raises(UserError, match=r"^classes=.*: type numbers of classes"):
        values.check({"classes": classes})


@pytest.mark.parametrize("size", [640, [640], (640, 480), [32, 32]])
def test_an_image_size_is_one_or_two_numbers(size):
    values.check({"imgsz": size})


@pytest.mark.parametrize("size", [0, -5, 640.5, "wide", True, [], [1, 2, 3], [640, "x"], None])
def test_any_other_image_size_is_refused(size):
    with pytest.raises(UserError, match=r"^imgsz=.*: type a whole number of pixels"):
        values.check({"imgsz": size})


@pytest.mark.parametrize("batch", [1, 16, 16.0, -1, 0.7])
def test_a_batch_is_a_number_of_images_or_a_share_of_the_memory(batch):
    values.check({"batch": batch})


@pytest.mark.parametrize("batch", [0, -2, 0.0, 1.5, float("nan"), float("inf"), "many", True, None])
def test_any_other_batch_is_refused(batch):
    with pytest.raises(UserError, match=r"^batch="):
        values.check({"batch": batch})


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        "auto",
        "mps",
        "cuda",
        "cuda:1",
        "cuda:0,cuda:1",
        0,
        "0,1",
        (0, 1),
        [-1, -1],
        -1,
        None,
        "",
        "npu:0",
        "dla:0",
    ],
)
def test_a_word_for_a_device_is_taken(device):
    values.check({"device": device})


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "cuda:x", "0;1", 1.5, -2, "first"])
def test_any_other_word_for_a_device_is_refused(device):
    with pytest.raises(UserError, match=r"type device=0 \(the first GPU\)"):
        values.check({"device": device})


def test_names_are_read_in_any_case_and_the_nearest_is_proposed():
    values.check({"optimizer": "adamw", "format": "ONNX"})
    with pytest.raises(UserError, match=r"^optimizer=rmsprob: did you mean RMSprop\? Type one of auto, SGD"):
        values.check({"optimizer": "rmsprob"})
