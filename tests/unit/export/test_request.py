# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an export is to make, from what was typed; nothing is loaded."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolov12.errors import UserError
from yolov12.export import request


def test_onnx_is_float32_with_fixed_shapes_unless_asked():
    made = request.of({"format": "onnx"})
    assert (made.form, made.precision, made.dynamic, made.opset, made.batch) == ("onnx", "fp32", False, 18, 1)
    assert made.reasons == (f"opset=18 ({request.OPSET_REASON})",)


@pytest.mark.parametrize("form", ["engine", "TensorRT", "trt"])
def test_an_engine_is_half_and_dynamic_where_nothing_was_said(form):
    made = request.of({"format": form})
    assert (made.form, made.precision, made.dynamic) == ("engine", "fp16", True)
    assert [reason.split(" ")[0] for reason in made.reasons] == ["half=True", "dynamic=True", "opset=18"]


def test_an_engine_is_what_was_asked_for():
    made = request.of({"format": "engine", "half": False, "dynamic": False, "opset": 17})
    assert (made.precision, made.dynamic, made.opset, made.reasons) == ("fp32", False, 17, ())


@pytest.mark.parametrize(
    "words", [{"half": True}, {"quantize": 16}, {"quantize": "fp16"}, {"half": True, "quantize": 16}]
)
def test_float16_has_several_names(words):
    assert request.of({"format": "onnx"} | words).precision == "fp16"


def test_an_int8_engine_takes_the_opset_whose_scales_may_be_float16():
    assert request.of({"format": "engine", "int8": True, "data": "my.yaml"}).opset == 19
    assert request.of({"format": "onnx", "int8": True, "data": "my.yaml"}).opset == 18


def test_other_formats_are_left_alone():
    assert request.of({"format": "torchscript", "quantize": "w8a16"}) is None
    assert request.of({}) is None  # ultralytics' default


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantize": 8}, "int8 is calibrated on your pictures"),
        ({"quantize": "w8a16"}, "quantize=w8a16: for format=onnx type quantize=8, 16 or 32"),
        ({"half": True, "int8": True, "data": "a"}, "half=True and int8=True contradict each other"),
        ({"half": True, "quantize": 32}, "half=True and quantize=32 contradict"),
        ({"opset": 9}, "opset=9: an export in fp32 needs 11 to 20"),
        ({"opset": 21}, "opset=21"),
        ({"opset": "newest"}, "opset=newest"),
        ({"format": "engine", "max_imgsz": "large"}, "max_imgsz=large: type pixels"),
        ({"opset": 12, "quantize": 8, "data": "a"}, "opset=12: an export in int8 needs 13 to 20"),
        ({"batch": 0.5}, "batch=0.5"),
        ({"batch": -1}, "batch=-1"),
        ({"raw": True}, "raw=True is for format=engine, not format=onnx"),
        ({"arch": 86}, "arch=86 is for format=engine"),
        ({"workspace": 4}, "workspace=4 is for format=engine"),
        ({"verify": "maybe"}, "verify=maybe: type True or False"),
        ({"verify": False, "verify_again": True}, "verify=False and verify_again=True contradict each other"),
        ({"verify_again": "maybe"}, "verify_again=maybe: type True or False"),
        ({"format": "engine", "workspace": 0}, "workspace=0"),
        ({"format": "engine", "arch": "ampere"}, "'ampere' is no GPU architecture"),
        ({"format": "engine", "dynamic": False, "max_imgsz": 640}, "max_imgsz=640 needs an open input size"),
        ({"format": "engine", "max_imgsz": 650}, "type pixels that 32 divides"),
        (
            {"format": "engine", "imgsz": 640, "max_imgsz": 320},
            "imgsz=640 is not between min_imgsz=32 and max_imgsz=320",
        ),
        (
            {"format": "engine", "imgsz": (320, 640), "min_imgsz": 640},
            "imgsz=320,640 is not between min_imgsz=640 and max_imgsz=320,640",
        ),
        ({"format": "torchscript", "min_imgsz": 64}, "min_imgsz=64 is for format=engine, not format=torchscript"),
    ],
)
def test_what_can_not_be_made_is_refused_in_a_sentence(options, words):
    with pytest.raises(UserError) as refused:
        request.of({"format": "onnx"} | options)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("typed", "archs"),
    [(86, ("86",)), (8.6, ("86",)), ("sm_86", ("86",)), ("75,8.9", ("75", "89")), ([120, "sm120"], ("120",))],
)
def test_an_architecture_is_understood_however_it_is_written(typed, archs):
    assert request.of({"format": "engine", "arch": typed}).archs == archs


def test_the_trained_size_counts_where_none_was_given():
    with pytest.raises(UserError, match="imgsz=320 is not between"):
        request.of({"format": "engine", "max_imgsz": 256}, trained_imgsz=320)


def test_ultralytics_is_asked_for_the_float32_graph_and_hears_of_nothing_that_it_does_not_know():
    stock = request.of(
        {"format": "engine", "imgsz": 320, "nms": True, "half": True, "data": "a", "raw": True, "verify": False}
    ).stock
    assert stock == {"format": "onnx", "imgsz": 320, "nms": True, "dynamic": True, "opset": 18}


@settings(max_examples=400)
@given(
    st.dictionaries(
        st.sampled_from(["half", "int8", "quantize", "dynamic", "opset", "batch", "arch", "raw", "min_imgsz", "data"]),
        st.one_of(st.none(), st.booleans(), st.integers(-1, 700), st.sampled_from(["fp16", "8", "sm_80", "a.yaml"])),
    ),
    st.sampled_from(["onnx", "engine"]),
)
def test_whatever_is_typed_is_decided_or_refused(options, form):
    try:
        made = request.of(options | {"format": form})
    except UserError:
        return
    assert made.precision in ("fp32", "fp16", "int8")
    assert made.precision != "int8" or made.data


def test_deciding_needs_no_torch():
    program = "import sys, yolov12.export.request; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
