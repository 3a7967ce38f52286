# SPDX-License-Identifier: AGPL-3.0-or-later
"""The bounded assigner against upstream's, to the bit, and its memory against its promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from ultralytics.utils.tal import TaskAlignedAssigner

from tests.unit.model.loss_inputs import LiveBytes, assigner_arguments
from yolov12.model import loss
from yolov12.model.loss import assignment
from yolov12.model.loss.assignment import CHUNK_BYTES, assign, plan_chunks

MIB = 2**20
SMALL = 50_000
"""A bound that a few boxes and a few hundred anchors exceed."""

EXACT_POWER = 2.0
"""torch squares by multiplication: no rounding that depends on the place in an array, as that of other powers does on a CPU."""


@pytest.fixture(scope="module", autouse=True)
def upstreams_forward():
    """What the assigner is compared with, whatever other tests have installed."""
    loss.uninstall()


def assigner(classes: int, beta: float = 6.0, topk: int = 10) -> TaskAlignedAssigner:
    return TaskAlignedAssigner(topk=topk, num_classes=classes, alpha=0.5, beta=beta, stride=[8, 16, 32])


def assert_equal(ours: tuple[Tensor, ...], upstream: tuple[Tensor, ...]) -> None:
    for name, mine, theirs in zip(assignment.Targets._fields, ours, upstream, strict=True):
        assert mine.dtype == theirs.dtype, f"{name}: {mine.dtype} instead of {theirs.dtype}"
        assert torch.allclose(mine, theirs, rtol=0, atol=0, equal_nan=True), f"{name} differs"


many_images = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])
seeds = st.integers(0, 2**31)


@settings(max_examples=60, deadline=None)
@given(many_images, st.sampled_from([64, 96]), st.integers(1, 5), dtypes, seeds, st.integers(1, 13))
def test_all_five_results_are_upstreams_to_the_bit(counts, size, classes, dtype, seed, topk):
    arguments = assigner_arguments(counts, size, classes, dtype, seed)
    them = assigner(classes, topk=topk)
    assert_equal(assign(them, *arguments), them(*arguments))


@settings(max_examples=60, deadline=None)
@given(many_images, st.sampled_from([64, 96]), st.integers(1, 5), dtypes, seeds, st.integers(1, 2_000_000))
def test_the_bound_changes_no_result(counts, size, classes, dtype, seed, chunk_bytes):
    arguments = assigner_arguments(counts, size, classes, dtype, seed)
    them = assigner(classes, beta=EXACT_POWER)
    assert_equal(assign(them, *arguments, chunk_bytes=chunk_bytes), them(*arguments))


def test_with_upstreams_power_chunks_differ_in_the_last_bit_of_a_score_at_most():
    arguments = assigner_arguments([3, 0, 40, 1, 7, 7], 96, 4)
    them = assigner(4)
    ours, upstream = assign(them, *arguments, chunk_bytes=SMALL), them(*arguments)
    torch.testing.assert_close(ours.scores, upstream[2], rtol=1e-6, atol=0)
    assert_equal(
        (ours.labels, ours.bboxes, ours.scores * 0, *ours[3:]), (*upstream[:2], ours.scores * 0, *upstream[3:])
    )


@pytest.mark.parametrize("chunk_bytes", [SMALL, CHUNK_BYTES])
def test_boxes_that_are_there_twice_tie_as_upstream_ties_them(chunk_bytes):
    scores, predicted, points, labels, gt, mask = assigner_arguments([12, 12], 96, 3)
    gt[:, 6:], labels[:, 6:] = gt[:, :6], labels[:, :6]
    arguments = (scores, predicted, points, labels, gt, mask)
    them = assigner(3, beta=EXACT_POWER)
    assert_equal(assign(them, *arguments, chunk_bytes=chunk_bytes), them(*arguments))


@pytest.mark.parametrize("chunk_bytes", [SMALL, CHUNK_BYTES])
def test_predictions_that_overlap_nothing_tie_as_upstream_ties_them(chunk_bytes):
    scores, predicted, *rest = assigner_arguments([5, 30], 96, 3)
    arguments = (scores, torch.full_like(predicted, -50.0), *rest)
    them = assigner(3, beta=EXACT_POWER)
    assert_equal(assign(them, *arguments, chunk_bytes=chunk_bytes), them(*arguments))


@pytest.mark.parametrize("chunk_bytes", [SMALL, CHUNK_BYTES])
def test_a_box_without_area_between_others_is_left_out_as_upstream_does(chunk_bytes):
    scores, predicted, points, labels, gt, mask = assigner_arguments([9, 20], 96, 3)
    gt[:, 4], mask[:, 4] = 0, 0
    arguments = (scores, predicted, points, labels, gt, mask)
    them = assigner(3, beta=EXACT_POWER)
    assert_equal(assign(them, *arguments, chunk_bytes=chunk_bytes), them(*arguments))


def test_one_nan_spoils_the_scores_of_its_image_as_upstream_has_it():
    scores, predicted, points, labels, gt, mask = assigner_arguments([3, 3], 64, 2)
    gt[0, 0] = torch.tensor([0.0, 0.0, 64.0, 64.0])  # so that the first anchor is inside
    predicted[0, 0] = float("nan")
    arguments = (scores, predicted, points, labels, gt, mask)
    ours = assign(assigner(2), *arguments)
    assert_equal(ours, assigner(2)(*arguments))
    assert ours.scores[0].isnan().all()
    assert not ours.scores[1].isnan().any()


def test_images_without_boxes_have_no_foreground():
    arguments = assigner_arguments([0, 5, 0], 64, 2)
    assert assign(assigner(2), *arguments).foreground.any(1).tolist() == [False, True, False]


def test_2000_boxes_in_one_image_of_sixteen_stay_below_the_bound():
    counts = [2000] + [7] * 15
    arguments = assigner_arguments(counts, 640, 1)
    arguments = tuple(t.contiguous() for t in arguments)
    with LiveBytes() as memory:
        ours = assign(assigner(1), *arguments)
    results = sum(t.untyped_storage().nbytes() for t in ours)
    assert memory.peak - results < CHUNK_BYTES
    assert ours.foreground[0].sum() > 1000


@pytest.mark.parametrize("counts", [[2000], [600] * 3, [1] * 40])
def test_the_bound_holds_where_every_anchor_is_inside_every_box(counts):
    scores, predicted, points, labels, gt, mask = assigner_arguments(counts, 320, 1)
    gt[:] = torch.tensor([0.0, 0.0, 320.0, 320.0])
    bound = 16 * MIB
    with LiveBytes() as memory:
        ours = assign(assigner(1), scores, predicted, points, labels, gt, mask, chunk_bytes=bound)
    results = sum(t.untyped_storage().nbytes() for t in ours)
    assert memory.peak - results < bound


def test_the_meter_sees_that_upstream_takes_far_more():
    arguments = assigner_arguments([200] + [7] * 15, 320, 1)
    with LiveBytes() as theirs:
        assigner(1)(*arguments)
    with LiveBytes() as ours:
        assign(assigner(1), *arguments, chunk_bytes=16 * MIB)
    assert theirs.peak > 5 * ours.peak


def test_one_chunk_asks_the_device_once():
    class Reads(LiveBytes):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            waits = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::item")
            self.count += func.name() in waits
            return super().__torch_dispatch__(func, types, args, kwargs)

    arguments = assigner_arguments([3, 9], 64, 2)
    with Reads() as reads:
        assign(assigner(2), *arguments)
    assert reads.count == 1


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=40), st.integers(1, 10_000), st.integers(1, 2**28))
def test_chunks_hold_each_image_once_and_fit_unless_they_are_one_image(counts, anchors, chunk_bytes):
    chunks = plan_chunks(counts, anchors, chunk_bytes)
    assert sorted(image for chunk in chunks for image in chunk.images) == list(range(len(counts)))
    for chunk in chunks:
        assert max(1, *(counts[image] for image in chunk.images)) == chunk.boxes
        assert len(chunk.images) == 1 or assignment.fits(len(chunk.images), chunk.boxes, anchors, chunk_bytes)


def test_one_crowded_image_does_not_make_the_others_wide():
    chunks = plan_chunks([7, 2000, 3, 5], 8400, 256 * MIB)
    assert chunks == [([1], 2000), ([0, 3, 2], 7)]
