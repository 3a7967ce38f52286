# SPDX-License-Identifier: AGPL-3.0-or-later
"""The drop-in, each case in a process of its own because it acts at the import of ultralytics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
# What the .pth file of the wheel does at the start of every interpreter of the environment.
START = "import yolov12.compat; yolov12.compat.install()\n"


def python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter, whose environment may or may not have the .pth file; fail the test if it fails."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "YOLOV12_CACHE_DIR": "", **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_stock_import_gets_our_class_and_our_trainer() -> None:
    code = START + (
        "from ultralytics import YOLO\n"
        "import yolov12\n"
        "model = YOLO('yolov12n.yaml')\n"
        "print(YOLO is yolov12.YOLO, model.task_map['detect']['trainer'].__name__, model.task_map['segment']['trainer'].__name__)\n"
    )
    assert python(code).stdout.split()[-3:] == ["True", "YOLOv12Trainer", "SegmentationTrainer"]


def test_our_own_import_works_without_the_hook() -> None:
    code = "from yolov12 import YOLO\nprint(YOLO('yolov12n.yaml').task_map['detect']['trainer'].__name__)"
    assert python(code).stdout.split()[-1:] == ["YOLOv12Trainer"]


def test_the_off_switch_leaves_ultralytics_as_it_is() -> None:
    code = START + (
        "from ultralytics import YOLO\n"
        "from ultralytics.nn.modules.block import AAttn\n"
        "print(YOLO.__module__, AAttn.forward.__module__, YOLO('yolo12n.yaml').task_map['detect']['trainer'].__name__)\n"
    )
    expected = ["ultralytics.models.yolo.model", "ultralytics.nn.modules.block", "DetectionTrainer"]
    assert python(code, YOLOV12_DISABLE="1").stdout.split()[-3:] == expected


def test_another_version_of_ultralytics_is_left_alone_and_said() -> None:
    code = (
        "import yolov12.pins; yolov12.pins.ULTRALYTICS = '0.0.0'\n"
        + START
        + "from ultralytics import YOLO; print(YOLO.__module__)"
    )
    done = python(code)
    assert done.stdout.split() == ["ultralytics.models.yolo.model"]
    assert "this version is written for 0.0.0" in done.stderr


def test_ultralytics_is_told_to_stay_offline_unless_the_user_said_otherwise() -> None:
    code = START + "import ultralytics, os; print(os.environ['YOLO_OFFLINE'], os.environ['YOLO_AUTOINSTALL'])"
    assert python(code, YOLO_OFFLINE="false").stdout.split()[-2:] == ["false", "false"]


def test_onnx_runtime_is_told_to_send_nothing_before_anything_imports_it() -> None:
    code = "import os; os.environ.pop('ORT_DISABLE_TELEMETRY', None)\n" + START
    assert python(code + "import ultralytics; print(os.environ['ORT_DISABLE_TELEMETRY'])").stdout.split()[-1] == "1"


def test_installing_twice_adds_one_finder() -> None:
    code = START * 2 + "import sys; print(sum(type(f).__module__ == 'yolov12.compat' for f in sys.meta_path))"
    assert python(code).stdout.split() == ["1"]


def test_torch_is_imported_without_looks_for_garbage() -> None:
    code = START + (
        "import gc, sys\n"
        "looks = {True: 0, False: 0}\n"
        "gc.callbacks.append(lambda phase, info: looks.__setitem__('torch.nn' in sys.modules, looks['torch.nn' in sys.modules] + 1))\n"
        "import ultralytics\n"
        "gc.callbacks.clear()\n"
        "assert gc.isenabled() and 'torch.optim' in sys.modules\n"
        "young, middle, old = (len(gc.get_objects(generation)) for generation in range(3))\n"
        "print(looks[True], young + middle < 0.1 * old, gc.get_freeze_count())\n"
    )
    assert python(code).stdout.split()[-3:] == ["0", "True", "0"]


def test_a_collector_that_is_off_stays_off() -> None:
    code = START + "import gc; gc.disable(); import ultralytics; print(gc.isenabled())"
    assert python(code).stdout.split()[-1] == "False"
