# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a package is to be, from what was typed; nothing is loaded."""

import subprocess
import sys

import pytest

from yolov12.errors import UserError
from yolov12.export import aoti_request, request


def test_a_package_is_float32_for_one_picture_unless_asked():
    assert aoti_request.of({"format": "aoti"}, 640) == aoti_request.Asked((640, 640), 1, "fp32", None, None, True)


def test_a_package_is_what_was_asked_for():
    typed = {
        "format": "aoti",
        "imgsz": [320, 640],
        "batch": 8,
        "half": True,
        "device": 0,
        "data": "a.yaml",
        "verify": False,
    }
    assert aoti_request.of(typed, 640) == aoti_request.Asked((320, 640), 8, "fp16", "0", "a.yaml", False)


@pytest.mark.parametrize(("imgsz", "sides"), [(100, (128, 128)), ([100, 64], (128, 64)), (1, (32, 32))])
def test_a_size_between_strides_is_rounded_up_as_ultralytics_does(imgsz, sides):
    from ultralytics.utils.checks import check_imgsz

    assert aoti_request.of({"format": "aoti", "imgsz": imgsz}, 640).imgsz == sides
    assert tuple(check_imgsz(imgsz, request.STRIDE, min_dim=2)) == sides


def test_defaults_that_were_typed_are_no_contradiction():
    typed = {
        "format": "aoti",
        "dynamic": False,
        "nms": False,
        "int8": False,
        "opset": None,
        "simplify": None,
        "device": "",
    }
    assert aoti_request.of(typed, 64).device is None


@pytest.mark.parametrize("form", ["aoti", "AOTInductor", "pt2"])
def test_it_has_several_names_and_is_not_ultralytics_business(form):
    assert aoti_request.is_asked({"format": form})
    assert request.of({"format": form}) is None
    assert not aoti_request.is_asked({})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dynamic": True}, "dynamic=True with format=aoti: a package is compiled for one shape"),
        ({"nms": True}, "nms=True with format=aoti: a package holds the network alone"),
        ({"int8": True, "data": "a"}, "take format=onnx or format=engine for int8"),
        ({"quantize": 8, "data": "a"}, "quantize=8 with format=aoti: a package computes in float32 or float16"),
        ({"opset": 18}, "opset=18 means nothing to format=aoti"),
        ({"half": True, "quantize": 32}, "contradict each other"),
        ({"batch": 0.5}, "batch=0.5"),
    ],
)
def test_what_can_not_be_is_refused_in_a_sentence(options, words):
    with pytest.raises(UserError) as refused:
        aoti_request.of({"format": "aoti"} | options, 640)
    assert words in str(refused.value)


def test_arguments_of_engines_are_refused_by_name():
    with pytest.raises(UserError, match="workspace=4 is for format=engine, not format=aoti"):
        request.of({"format": "aoti", "workspace": 4})


def test_deciding_needs_no_torch():
    code = "import sys, yolov12.export.aoti_request; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_package_that_can_not_be_is_refused_before_torch_is_imported():
    code = (
        "import sys; from yolov12 import early, errors\n"
        "try: early.check_export({'format': 'aoti', 'dynamic': True})\n"
        "except errors.UserError as error: print(str(error)[:29], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "dynamic=True with format=aoti False\n", done.stderr
