# SPDX-License-Identifier: AGPL-3.0-or-later
"""What scripts and tutorials expect to find: conda's words, /root/yolov12 and its programs, and `from ultralytics import YOLO`."""

from pathlib import Path

import pytest

from tests.image.harness import STRANGER, Image, mount

PREFIX = "python -c 'import sys; print(sys.prefix)'"
WHOSE_YOLO = "from ultralytics import YOLO; print(YOLO.__module__)"


@pytest.mark.parametrize("bash", [("bash", "-c"), ("bash", "-lc"), ("bash", "-euo", "pipefail", "-c"), ("bash", "-ic")])
def test_conda_activate_works_in_every_kind_of_bash(image: Image, bash: tuple[str, ...]):
    ran = image.run(*bash, f"conda activate yolov12 && cd /root/yolov12 && {PREFIX}", options=STRANGER)
    assert (ran.code, ran.out) == (0, "/opt/yolov12\n")


def test_conda_activate_works_in_a_script(image: Image, workspace: Path):
    (workspace / "job.sh").write_text(f"#!/bin/bash\nset -eu\nconda activate yolov12\n{PREFIX}\nconda deactivate\n")
    assert image.run("bash", "job.sh", options=mount(workspace, *STRANGER)).check().out == "/opt/yolov12\n"


def test_conda_activate_of_another_environment_is_refused(image: Image):
    ran = image.run("bash", "-c", "conda activate base", options=STRANGER)
    assert (ran.code, "only `conda activate yolov12`" in ran.log) == (2, True)


def test_the_workbenchs_ultralytics_is_the_imported_package(image: Image):
    program = "import os, ultralytics; print(os.path.samefile('/root/yolov12/ultralytics', os.path.dirname(ultralytics.__file__)))"
    assert image.python(program).splitlines()[-1] == "True"


def test_train_py_is_the_verb(image: Image):
    options = (*STRANGER, "--workdir=/root/yolov12")
    assert image.run("python", "train.py", "--help", options=options).out == image.run("train", "--help").out
    ran = image.run("python", "train.py", "--model", "yolov12n.yaml", options=options)
    assert (ran.code, "data=my.yaml" in ran.log) == (2, True)


def test_the_lr_finder_is_the_verb(image: Image):
    options = (*STRANGER, "--workdir=/root/yolov12")
    shown = image.run("python", "utils/lr_finder.py", "--help", options=options)
    assert shown.out == image.run("lr-find", "--help").out
    ran = image.run("python", "utils/lr_finder.py", "--model", "yolov12s.yaml", options=options)
    assert (ran.code, "lr-find needs data=" in ran.log) == (2, True)


def test_a_script_gets_our_yolo(image: Image, workspace: Path):
    (workspace / "my_script.py").write_text(WHOSE_YOLO)
    for command in (("python", "my_script.py"), ("my_script.py",)):
        assert image.run(*command, options=mount(workspace, *STRANGER)).check().out.splitlines()[-1] == "yolov12"


def test_the_drop_in_can_be_turned_off(image: Image):
    shown = image.python(WHOSE_YOLO, options=(*STRANGER, "--env=YOLOV12_DISABLE=1"))
    assert shown.splitlines()[-1] == "ultralytics.models.yolo.model"


def test_the_benchmarks_are_there(image: Image):
    image.run("bench", "list", options=STRANGER).check()


def test_a_benchmark_runs_both_sides_and_ends_with_its_table(image: Image, workspace: Path):
    ran = image.run("bench", "start", options=mount(workspace, *STRANGER), timeout_s=300).check()
    assert "  cli_help_ms " in ran.out
    assert list((workspace / "runs/bench").rglob("start*.json"))


def test_the_launchers_are_there(image: Image):
    assert "data=my.yaml" in image.run("/root/yolov12/scripts/train.sh", options=STRANGER).log
