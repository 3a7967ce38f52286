# SPDX-License-Identifier: AGPL-3.0-or-later
"""The comparison of what two models see, and the gate around it, on outputs that are written down."""

import numpy as np
import pytest
import torch

from yolov12.export import gate, parity, seen

SIZE = (32, 32)
GREY = np.full((32, 32, 3), 114, np.uint8)


class Source(torch.nn.Module):
    """Says the same of every picture: three anchors of two classes."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = torch.nn.Buffer(torch.tensor(outputs)[None])

    def forward(self, pixels):
        return self.outputs.expand(len(pixels), -1, -1)


def anchors(**changes):
    """(4 + 2, 3): an anchor that sees something, one that nearly does, one that sees nothing."""
    found = np.array(
        [[10.0, 50, 90], [10, 50, 90], [8, 8, 8], [8, 8, 8], [0.9, 0.24, 0.01], [0.1, 0.2, 0.01]], np.float32
    )
    for place, value in changes.items():
        row, column = map(int, place[1:].split("_"))
        found[row, column] = value
    return found


def compared(got, classes=2, batch=1):
    exported = parity.Exported(lambda pixels: [np.stack([got] * len(pixels))], ("output0",), batch, SIZE, 3, classes)
    return seen.compare_seen(Source(anchors().tolist()), "x.onnx", exported, [GREY, GREY, GREY])


def test_equal_outputs_have_no_distance():
    assert compared(anchors()) == seen.Seen(images=3, shown=3, box_px=0.0, score=0.0)


def test_the_box_of_a_shown_anchor_counts_and_that_of_another_does_not():
    assert compared(anchors(a0_0=10.5)).box_px == 0.5
    assert compared(anchors(a0_1=55)).box_px == 0.0


def test_an_anchor_that_only_the_export_shows_counts():
    found = compared(anchors(a0_1=55, a4_1=0.26))
    assert (found.shown, found.box_px) == (6, 5.0)
    assert found.score == pytest.approx(0.02)


def test_a_batch_is_filled_up():
    assert compared(anchors(), batch=2).shown == 4


def test_outputs_without_anchors_are_scores_alone():
    found = compared(anchors(a0_0=10.5), classes=None)
    assert (found.shown, found.box_px, found.score) == (0, 0.0, 0.5)


@pytest.mark.parametrize("place", ["a0_0", "a0_2", "a4_2"])
def test_a_nan_anywhere_never_passes(place):
    with pytest.raises(parity.ParityError, match="nan"):
        seen.require_seen(compared(anchors(**{place: np.nan})), seen.TOLERANCES["int8"])


def test_other_shapes_are_another_model():
    with pytest.raises(parity.ParityError, match="outputs of shape"):
        compared(anchors()[:5])


def test_the_verdict_names_what_is_too_far_and_what_is_allowed():
    allowed = seen.Tolerance(box_px=1.0, score=0.02, map_points=0.3)
    assert seen.require_seen(seen.Seen(2, 5, 1.0, 0.02), allowed)
    with pytest.raises(parity.ParityError, match=r"on 2 images: a box by 1\.50 px \(allowed 1\)\.$"):
        seen.require_seen(seen.Seen(2, 5, 1.5, 0.02), allowed)
    with pytest.raises(parity.ParityError, match=r"a score by 0\.0300 \(allowed 0\.02\)"):
        seen.require_seen(seen.Seen(2, 5, 0.0, 0.03), allowed)


def test_a_turned_box_is_seen_only_where_boxes_have_an_angle_and_are_shown():
    source = Source(anchors().tolist())
    angle = parity.Exported(lambda pixels: [anchors(a5_0=0.18)[None]], ("output0",), 1, SIZE, 3, 1)
    assert seen.compare_seen(source, "x.onnx", angle, [GREY]).angle == 0.0
    source.task = "obb"
    found = seen.compare_seen(source, "x.onnx", angle, [GREY])
    assert found.angle == pytest.approx(0.08)
    with pytest.raises(parity.ParityError, match=r"an angle by 0\.080 radians \(allowed 0\.063\)"):
        seen.require_seen(found, seen.TOLERANCES["fp16"])
    unseen = parity.Exported(lambda pixels: [anchors(a5_2=1.0)[None]], ("output0",), 1, SIZE, 3, 1)
    assert seen.compare_seen(source, "x.onnx", unseen, [GREY]).angle == 0.0


@pytest.mark.parametrize(("after", "passes"), [(50.2, True), (49.8, True), (49.6, False), (float("nan"), False)])
def test_mean_average_precision_may_be_a_little_worse_and_any_better(tmp_path, after, passes):
    allowed = seen.TOLERANCES["fp16"]
    case = gate.Case(torch.nn.Identity(), tmp_path / "x.onnx", "onnx", "fp16", (160, 160))
    sizes = []

    def evaluate(file, imgsz):
        sizes.append(imgsz)
        return after if file else 50.0

    def same_map():
        return gate._same_map(case, evaluate, allowed)

    if passes:
        assert f"mAP50-95 50.00 -> {after:.2f} (allowed 0.3 points less)" in same_map()
    else:
        with pytest.raises(parity.ParityError, match=r"worse than its source: mAP50-95 50\.00"):
            same_map()
    assert sizes == [(160, 160)] * 2, "both at the size of the export"


def test_mean_average_precision_is_not_measured_where_both_could_not_take_one_size(tmp_path):
    case = gate.Case(torch.nn.Identity(), tmp_path / "x.onnx", "onnx", "fp16", (96, 160))
    assert "mAP is not compared" in gate._same_map(case, lambda *_: pytest.fail("it was"), seen.TOLERANCES["fp16"])
