# SPDX-License-Identifier: AGPL-3.0-or-later
"""images: which rows there are, and what a failed build leaves."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks import harness
from tests.unit.benchmarks.programs import job


def test_every_variant_has_its_rows_and_those_of_the_same_layers_are_built_anew_once():
    program = harness.discover()["images"].run_side.__globals__
    bake = {"target": {"a": {"args": {"X": "1"}}, "a-b": {"args": {"X": "1"}}, "c": {"args": {"X": "2"}}}}
    names = [row.name for row in program["rows"](bake)]
    assert [name for name in names if name.endswith("_cold")] == ["image_a_cold", "image_c_cold"]
    assert {"image_a_b_cached", "image_a_b_size", "image_a_b_help"} <= set(names)


def test_an_image_that_can_not_be_built_does_not_hide_the_others(monkeypatch, tmp_path):
    program = harness.discover()["images"].run_side.__globals__

    def measure(kind: str, variant: str) -> tuple[float, str]:
        if variant == "train":
            raise subprocess.CalledProcessError(1, ["docker/build.sh"], stderr="steps\nbuild: too large\n")
        return 1.0, ""

    monkeypatch.setitem(program, "_measure", measure)
    rows = ("image_train_cold", "image_train_size", "image_train_nonroot_size", "image_deploy_size")
    measured = program["run_side"](job("images", "ours", rows, tmp_path))
    assert measured.failed == dict.fromkeys(rows[:2], "build: too large")
    assert measured.values == dict.fromkeys(rows[2:], 1.0)


def test_a_failed_build_says_why_in_the_words_of_the_step_that_failed():
    why_failed = harness.discover()["images"].run_side.__globals__["why_failed"]
    steps = "#11 23.66 fetch: ADDRESS\n------\n > [miniforge 1/1] RUN x:\n23.66 fetch: ADDRESS can not be fetched\n------\nERROR: failed to solve\n"
    assert why_failed(steps) == "fetch: ADDRESS can not be fetched"
    assert why_failed("steps\nbuild: too large\n") == "build: too large"
    assert why_failed("") == ""


def test_the_first_line_of_a_program_that_fails_is_no_time():
    first_line_s = harness.discover()["images"].run_side.__globals__["first_line_s"]
    assert first_line_s(["echo", "line"]) > 0
    with pytest.raises(subprocess.CalledProcessError):
        first_line_s(["bash", "-c", "echo line; exit 3"])
