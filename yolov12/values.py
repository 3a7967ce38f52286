# SPDX-License-Identifier: AGPL-3.0-or-later
"""What may stand after `key=`: types and ranges of ultralytics' arguments, known before torch is imported, which takes seconds.

The kinds of most keys are ultralytics' own (`check_cfg`, cfg/__init__.py:341 of 8.4.190), read as data; a test compares the verdicts. Refused
besides is what ultralytics replaces by a value that was not asked for (imgsz=-5 by 32, batch=0 by 16), and what it notices only when
everything is loaded (optimizer=, format=).
"""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yolov12 import arguments
from yolov12.errors import UserError

OPTIMIZERS = ("auto", "SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop")
"""engine/trainer.py:1175; in any case."""
FORMATS = (
    "onnx torchscript openvino engine coreml coreai saved_model pb edgetpu litert paddle mnn ncnn imx rknn executorch axelera deepx qnn "
    "hailo ascend xilinx"
).split()
"""engine/exporter.py:155."""
FORMAT_ALIASES = (
    "tensorrt trt mlmodel mlpackage mlprogram apple ios huawei cann om vitis vitisai versal tflite tfjs".split()
)
"""engine/exporter.py:624-639."""
OUR_FORMATS = ("aoti", "aotinductor", "pt2")
"""The first is what is proposed: aoti_request.NAMES."""
DEVICE = re.compile(
    r"|auto|cpu|mps(:0)?|(cuda|(cuda:)?(\d+|-1)(,(cuda:)?(\d+|-1))*),?|(npu|xpu|tpu|intel|vulkan|dla)\b.*"
)
"""What utils/torch_utils.py:158 and :236 read, without brackets, quotes and spaces."""


@dataclass(frozen=True)
class Rule:
    """What a key takes, and the words for it after "type"."""

    fits: Callable[[Any], bool]
    words: str
    choices: Sequence[str] = ()
    """Names to look for the nearest in."""


def check(options: Mapping[str, Any]) -> None:
    """Refuse the first value that its key can not have.

    Raises:
        UserError: the key, the value, and what to type.
    """
    for key, value in options.items():
        rule = OWN.get(key) or _rule_of_ultralytics(key)
        if rule is None or (rule.fits(value) if value is not None else _may_be_none(key)):
            continue
        near = difflib.get_close_matches(str(value).lower(), [name.lower() for name in rule.choices], n=1)
        spelt = next((name for name in rule.choices if name.lower() in near), None)
        meant = f"did you mean {spelt}? Type" if spelt else "type"
        raise UserError(f"{key}={value}: {meant} {rule.words}")


def is_number(value: Any) -> bool:
    """An int or a float; True and False are ints to ultralytics too."""
    return isinstance(value, (int, float)) and value == value  # not NaN


def is_whole(value: Any, at_least: float = float("-inf")) -> bool:
    """A whole number, also when written 1e2."""
    return is_number(value) and (isinstance(value, int) or value.is_integer()) and value >= at_least


def is_share(value: Any) -> bool:
    """A number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def is_image_size(value: Any) -> bool:
    """Pixels: one whole number, or height and width."""
    sizes = value if isinstance(value, (list, tuple)) else [value]
    return len(sizes) in (1, 2) and all(
        isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes
    )


def is_batch(value: Any) -> bool:
    """A whole number of images, -1, or a share of the GPU's memory. 0.0 and 1.0 are neither."""
    return not isinstance(value, bool) and is_number(value) and (value == -1 or is_whole(value, 1) or 0 < value < 1)


def is_device(value: Any) -> bool:
    """Words that ultralytics or we know for a device; whether it is there is another question."""
    return DEVICE.fullmatch(re.sub(r"[()\[\]'\" ]", "", str(value).lower())) is not None


def is_fraction(value: Any) -> bool:
    """The part of the data set that is used: a ratio, a count, or one of these for each split."""
    if isinstance(value, list):
        each = [(type(x) is int and x >= 0) or (type(x) is float and 0 <= x <= 1) for x in value]
        return len(value) in (2, 3) and all(each) and all(value[:2])
    return (
        not isinstance(value, bool) and is_number(value) and (0 < value <= 1 or (isinstance(value, int) and value > 1))
    )


def are_classes(value: Any) -> bool:
    """Numbers of classes: one, or several. Whether the model has them is another question."""
    several = value if isinstance(value, (list, tuple)) else [value]
    return bool(several) and all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in several)


def is_scale(value: Any) -> bool:
    """A gain, or its least and largest."""
    if isinstance(value, (list, tuple)):
        return len(value) == 2 and all(is_number(x) for x in value)
    return is_share(value)


def _one_of(names: Sequence[str], also: Sequence[str] = ()) -> Rule:
    known = {name.lower() for name in (*names, *also)}
    return Rule(
        lambda value: isinstance(value, str) and value.lower() in known,
        f"one of {', '.join(names)}",
        choices=names,
    )


OWN: Mapping[str, Rule] = {
    "imgsz": Rule(
        is_image_size, "a whole number of pixels, for example imgsz=640 (predict and export: also imgsz=480,640)"
    ),
    "batch": Rule(
        is_batch, "a whole number from 1, -1 (found out on the GPU), or a share of the GPU's memory such as batch=0.7"
    ),
    "workers": Rule(lambda value: is_whole(value, 0), "a whole number from 0, for example workers=8"),
    "optimizer": _one_of(OPTIMIZERS),
    "format": _one_of([*FORMATS, OUR_FORMATS[0]], (*FORMAT_ALIASES, *OUR_FORMATS[1:])),
    "task": _one_of(arguments.TASKS),
    "device": Rule(is_device, "device=0 (the first GPU), device=0,1, device=auto (all GPUs) or device=cpu"),
    "cache": Rule(lambda value: value in (True, False, "ram", "disk"), "ram, disk or False"),
    "copy_paste_mode": _one_of(("flip", "mixup")),
    "auto_augment": _one_of(("randaugment", "autoaugment", "augmix")),
    "fraction": Rule(is_fraction, "a ratio above 0 up to 1, a count from 2, or [train, val] of these"),
    "classes": Rule(are_classes, "numbers of classes, for example classes=0 or classes=0,2"),
    "scale": Rule(is_scale, "a number from 0 to 1, or two numbers"),
}


def _rule_of_ultralytics(key: str) -> Rule | None:
    kinds = _kinds()
    example = f", for example {key}={arguments.ultralytics_defaults().get(key)}"
    if key in kinds["CFG_INT_KEYS"]:
        least = kinds["CFG_INT_MIN"].get(key)
        words = "a whole number" if least is None else f"a whole number from {least}"
        return Rule(
            lambda value: is_whole(value, float("-inf") if least is None else least), words + _unless_none(example)
        )
    if key in kinds["CFG_FRACTION_KEYS"]:
        return Rule(is_share, "a number from 0 to 1" + _unless_none(example))
    if key in kinds["CFG_FLOAT_KEYS"]:
        return Rule(is_number, "a number" + _unless_none(example))
    if key in kinds["CFG_BOOL_KEYS"]:
        return Rule(lambda value: isinstance(value, bool), "True or False")
    if key in kinds["CFG_STR_KEYS"]:
        return Rule(lambda value: isinstance(value, str), "a word" + _unless_none(example))
    if key == "quantize":
        return Rule(
            lambda value: str(value).lower() in kinds["QUANTIZE_ALIASES"],
            f"one of {', '.join(kinds['QUANTIZE_ALIASES'])}",
        )
    return None


def _unless_none(example: str) -> str:
    return "" if example.endswith("=None") else example


def _may_be_none(key: str) -> bool:
    """Whether `key=None` says anything: it does where ultralytics' default is None, and for devices and policies."""
    return key in ("device", "auto_augment", "cache") or arguments.ultralytics_defaults().get(key) is None


@functools.cache
def _kinds() -> dict[str, Any]:
    """The sets of keys by kind in ultralytics' cfg/__init__.py."""
    tree = ast.parse((arguments.ultralytics_folder() / "cfg" / "__init__.py").read_text(encoding="utf-8"))
    found = {}
    for node in (node for node in tree.body if isinstance(node, ast.Assign)):
        name = ast.unparse(node.targets[0])
        if name.startswith("CFG_") or name == "QUANTIZE_ALIASES":
            value = node.value.args[0] if isinstance(node.value, ast.Call) else node.value  # frozenset({...})
            found[name] = ast.literal_eval(value)
    return found
