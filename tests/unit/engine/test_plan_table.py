# SPDX-License-Identifier: AGPL-3.0-or-later
"""The plan's table as the log shows it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn

from yolov12.engine import plan_table
from yolov12.engine.layers import stage_of
from yolov12.engine.profile import Measured
from yolov12.memory.plan import Block, Plan, Profile

GIB = 2**30
NAMES = ("model.0", "model.1", "model.2")
STAGES = {"model.0": "backbone", "model.1": "neck", "model.2": "head"}


def a_model() -> nn.Module:
    made = nn.Module()
    made.yaml = {"backbone": [[]], "head": [[], []]}
    return made


def known(measured: Measured | None = None) -> Any:
    blocks = []
    for name in NAMES:
        blocks.append(Block(f"{name} input", GIB, 1.0, (), is_input=True))
        blocks.append(Block(name, 2 * GIB, 4.0, (len(blocks) - 1,)))
    profile = Profile(tuple(blocks), 0, (9 * GIB,) * 7)
    return SimpleNamespace(profile=profile, measured=measured, why="as in a test", shape=(8, 3, 64, 32))


PLAN = Plan(frozenset({0, 1, 2}), 5 * GIB)


def cells(line: str) -> list[str]:
    return line.split()


def test_each_stage_has_what_runs_again_what_is_rebuilt_what_that_frees_and_its_share_of_forward():
    header, backbone, neck, head, everything = plan_table.lines(a_model(), known(), PLAN)
    assert cells(header)[:2] == ["convolutions", "run"]
    assert cells(backbone) == ["backbone", "1", "1", "1", "3.00", "33", "%"]
    assert cells(neck) == ["neck", "1", "0", "1", "1.00", "7", "%"]
    assert cells(head) == ["head", "1", "0", "0", "0.00", "0", "%"]
    assert cells(everything) == ["all", "3", "1", "2", "4.00", "40", "%"]


def test_measured_costs_are_milliseconds():
    measured = Measured((4.0,) * 3, (1.0,) * 3)
    *_, everything = plan_table.lines(a_model(), known(measured), PLAN)
    assert cells(everything)[-1] == "6.0"
    assert "forward's convolutions take 15.0 ms" in plan_table.headline(known(measured), PLAN, 6 * GIB)


def test_in_micro_batches_only_a_part_is_freed_at_a_time():
    parted = Plan(PLAN.dropped, 3 * GIB, parts=2)
    *_, everything = plan_table.lines(a_model(), known(), parted)
    assert cells(everything)[4] == "2.00"
    assert "in 2 micro-batches needs 3.00 of 6.00 GiB" in plan_table.headline(known(), parted, 6 * GIB)


def test_where_nothing_is_dropped_a_line_says_so_and_there_is_no_table():
    keeps = Plan(frozenset(), 9 * GIB)
    assert plan_table.lines(a_model(), known(), keeps) == []
    said = plan_table.headline(known(), keeps, 10 * GIB)
    assert said == "batch 8 at 64x32 needs 9.00 of 10.00 GiB (as in a test); everything is kept"


def test_modules_that_are_no_layer_of_a_model_have_one_row():
    assert {stage_of(nn.Linear(1, 1), name) for name in ("conv", "layers.0")} == {"model"}
    assert {name: stage_of(a_model(), f"{name}.cv1") for name in NAMES} == STAGES
