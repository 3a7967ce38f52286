# SPDX-License-Identifier: AGPL-3.0-or-later
"""What suppression of turned boxes left, judged: by hand on single ones, and against what ultralytics puts into files on random ones."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.engine.exporter import NMSModel

from yolov12.export import left
from yolov12.export.candidates import Candidates, Room
from yolov12.export.request import Suppression

SIDE = 320
ROOM = Room(least_iou=0.99, score=0.001)
NMS = Suppression(conf=0.25, iou=0.7)
SHIP = ([100, 100, 80, 20, 0.5], [0.9, 0.1])
NEXT = ([115, 108, 80, 20, 0.5], [0.8, 0.1])
"""Overlaps SHIP and LAST by 0.74, which overlap each other by 0.51: what went itself takes LAST with it."""
LAST = ([130, 116, 80, 20, 0.5], [0.7, 0.1])
TANK = ([220, 220, 40, 40, 0.3], [0.1, 0.6])


def candidates(*anchors):
    boxes, scores = (np.array(part, np.float32) for part in zip(*anchors, strict=True))
    return Candidates(boxes, scores, boxes[:, 4:], SIDE)


def row(anchor, kind=None):
    box, scores = anchor
    kind = int(np.argmax(scores)) if kind is None else kind
    return [*box[:4], scores[kind], kind, box[4]]


def faults(rows, source, nms=NMS, room=ROOM):
    found = left.examine(np.array(rows, np.float32).reshape(-1, 7), source, nms, room)
    return found.foreign, found.overlapping, found.missing


HARBOUR = candidates(SHIP, NEXT, LAST, TANK)


def test_the_boxes_here_overlap_as_is_said():
    overlap = HARBOUR.rivalry(HARBOUR.boxes, HARBOUR.boxes)
    assert overlap[[0, 1, 0], [1, 2, 2]] == pytest.approx([0.74, 0.74, 0.51], abs=0.01)


def test_what_went_still_suppresses():
    assert faults([row(SHIP), row(TANK)], HARBOUR) == (0, 0, 0)
    assert faults([row(SHIP), row(LAST), row(TANK)], HARBOUR) == (0, 1, 0)  # greedy suppression would leave it


def test_what_nothing_suppresses_is_missed():
    assert faults([row(SHIP), row(TANK)], candidates(SHIP, LAST, TANK)) == (0, 0, 1)
    assert faults([row(SHIP)], HARBOUR) == (0, 0, 1)
    assert faults([row(TANK)], HARBOUR) == (0, 0, 3)


def test_of_two_equal_ones_one_stays():
    pair = candidates(SHIP, (NEXT[0], SHIP[1]), TANK)
    assert faults([row(SHIP), row(TANK)], pair) == (0, 0, 0)
    assert faults([row((NEXT[0], SHIP[1])), row(TANK)], pair) == (0, 0, 0)
    assert faults([row(TANK)], pair) == (0, 0, 2)  # neither may be excused by the other


@pytest.mark.parametrize(
    "changed",
    [
        [100, 100, 80, 20, 0.9, 0, 0.6],  # turned by 6 degrees
        [100, 100, 80, 20, 0.9, 0, math.degrees(0.5)],
        [100, 100, 80, 20, 0.9, 0, 0.5 + math.pi],  # the same rectangle, and not what the source says
        [100, 100, 20, 80, 0.9, 0, 0.5],
        [100, 102, 80, 20, 0.9, 0, 0.5],  # moved
        [60, 90, 140, 110, 0.9, 0, 0.5],  # corners
        [100, 100, 80, 20, 0.85, 0, 0.5],
        [100, 100, 80, 20, 0.9, 1, 0.5],
        [100, 100, 80, 20, 0.9, 0, np.nan],
        [np.nan, 100, 80, 20, 0.9, 0, 0.5],
    ],
)
def test_a_box_that_is_not_the_sources_is_seen(changed):
    assert faults([changed, row(TANK)], HARBOUR)[0] == 1


@pytest.mark.parametrize(("precision_score", "least_iou"), [(0.001, 0.99), (0.02, 0.95)])
def test_a_wrong_angle_of_a_square_is_seen_though_it_overlaps_as_before(precision_score, least_iou):
    wrong = [*row(TANK)[:6], 0.3 + math.radians(10)]
    room = Room(least_iou, precision_score)
    assert HARBOUR.likeness(np.array([[220, 220, 40, 40, wrong[6]]])).max() > 0.99
    assert faults([row(SHIP), wrong], HARBOUR, room=room) == (1, 0, 0)


def test_an_angle_within_rounding_is_right():
    assert faults([[*row(SHIP)[:6], 0.502], row(TANK)], HARBOUR) == (0, 0, 0)


def test_classes_suppress_each_other_where_that_was_asked_for():
    beside = (NEXT[0], [0.1, 0.8])
    agnostic = dataclasses.replace(NMS, agnostic=True)
    assert faults([row(SHIP)], candidates(SHIP, beside)) == (0, 0, 1)
    assert faults([row(SHIP), row(beside)], candidates(SHIP, beside)) == (0, 0, 0)
    assert faults([row(SHIP)], candidates(SHIP, beside), agnostic) == (0, 0, 0)
    assert faults([row(SHIP), row(beside)], candidates(SHIP, beside), agnostic) == (0, 1, 0)


def test_only_the_five_times_max_det_best_compete():
    two = dataclasses.replace(NMS, max_det=2)
    crowd = [([100 + step, 100, 80, 20, 0.5], [0.9 - step / 100, 0.1]) for step in range(10)]
    assert faults([row(crowd[0])], candidates(*crowd, TANK), two) == (0, 0, 0)  # ten are better than TANK
    assert faults([row(crowd[0])], candidates(*crowd[:8], TANK), two) == (0, 0, 1)


class Says(torch.nn.Module):
    """A network that gives the same for any picture."""

    task = "obb"

    def __init__(self, output):
        super().__init__()
        self.output = output
        self.names = dict(enumerate("abc"))

    def forward(self, pixels):
        return torch.from_numpy(self.output)


def left_in_a_file(output, nms):
    """(n, 7): what the module leaves that ultralytics traces into files."""
    arguments = SimpleNamespace(
        format="onnx",
        dynamic=False,
        batch=1,
        opset=18,
        quantize=None,
        max_det=nms.max_det,
        conf=nms.conf,
        iou=nms.iou,
        agnostic_nms=nms.agnostic,
    )
    (rows,) = NMSModel(Says(output.copy()), arguments)(torch.zeros(1, 3, SIDE, SIDE)).numpy()
    return rows[rows[:, 4] != 0]


def raw(seed, crowd, levels, longest):
    """(1, 4 + 3 classes + angle, anchors) of crowds of boxes; their scores are `levels` numbers, so that many are equal."""
    random = np.random.default_rng(seed)
    centres = random.uniform(80, 240, (2, 8)).repeat(crowd, axis=1) + random.uniform(-3, 3, (2, 8 * crowd))
    sides = random.uniform(longest / 10, longest, (2, 8)).repeat(crowd, axis=1) * random.uniform(
        0.9, 1.1, (2, 8 * crowd)
    )
    angles = random.uniform(-0.7, 2.3, (1, 8)).repeat(crowd, axis=1) + random.uniform(-0.05, 0.05, (1, 8 * crowd))
    scores = random.integers(0, levels + 1, (3, 8 * crowd)) / levels
    return np.concatenate([centres, sides, scores, angles])[None].astype(np.float32)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.integers(0, 10_000),
    st.integers(1, 8),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from([8, 60]),
    st.sampled_from([0.3, 0.7]),
    st.booleans(),
    st.sampled_from([3, 300]),
)
def test_what_a_file_leaves_is_right_and_one_box_less_or_turned_is_not(
    seed, crowd, levels, longest, iou, agnostic, max_det
):
    output = raw(seed, crowd, levels, longest)
    nms = Suppression(0.2, iou, max_det, agnostic)
    source = Candidates.of(output[0], 3, SIDE)
    rows = left_in_a_file(output, nms)
    assert faults(rows, source, nms) == (0, 0, 0)
    overlap = source.rivalry(source.boxes_of(rows), source.boxes)
    alone = np.flatnonzero((overlap > 0.1).sum(axis=1) == 1)
    if len(alone) and len(rows) < max_det:
        assert faults(np.delete(rows, alone[0], axis=0), source, nms)[2] == 1
    if len(alone):
        rows[alone[0], 6] += 0.1
        assert faults(rows, source, nms)[0] == 1
