# SPDX-License-Identifier: AGPL-3.0-or-later
"""What would fit: batches and single images, by the trace of a real model and memory that the test makes up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ultralytics.nn.tasks import DetectionModel

from yolov12.engine import fit
from yolov12.engine.fit import largest_batch, largest_size
from yolov12.engine.profile import profile
from yolov12.memory.budget import Memory
from yolov12.memory.plan import peaks
from yolov12.model import fused
from yolov12.model.fused.trace import Trace, trace

SIZE = (64, 64)
MIB = 2**20


@pytest.fixture(scope="module", autouse=True)
def fused_convolutions() -> Iterator[None]:
    fused.install()
    yield
    fused.uninstall()


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    return DetectionModel("yolo12s.yaml", verbose=False).train()


@pytest.fixture(scope="module")
def traced(model) -> Trace:
    return trace(model, (2, 3, *SIZE), torch.bfloat16)


def largest(model: DetectionModel, budget_bytes: int, **options: object) -> int:
    return largest_batch(model, SIZE, torch.bfloat16, 0, budget_bytes, **({"most_images": 1000} | options))


def test_a_trace_of_two_images_tells_that_of_eight(model, traced):
    eight = trace(model, (8, 3, *SIZE), torch.bfloat16)
    scaled = traced.of_images(8)
    assert scaled.convolutions == eight.convolutions
    assert scaled.output_elements == eight.output_elements
    assert sum(size for _, size in scaled.others) == pytest.approx(sum(size for _, size in eight.others), rel=1e-3)


def test_the_largest_batch_fits_with_its_inputs_rebuilt_and_one_image_more_does_not(model, traced):
    budget = 200 * MIB
    found = largest(model, budget)

    def needed(images: int) -> int:
        known = profile(traced.of_images(images), 0)
        inputs = {i for i, block in enumerate(known.blocks) if block.is_input and block.may_drop}
        return int(peaks(known, inputs).max()) + 4 * images * 3 * 64 * 64

    assert needed(found) <= budget < needed(found + 1)


def test_a_larger_budget_takes_a_larger_batch_until_the_data_set_ends(model):
    assert 0 < largest(model, 100 * MIB) < largest(model, 200 * MIB)
    assert largest(model, 10**12, most_images=77) == 77


def test_upstreams_modules_fit_fewer_images(model):
    assert largest(model, 200 * MIB, keeps_inputs=True) < largest(model, 200 * MIB)


def test_pictures_full_of_boxes_take_room(model):
    assert largest(model, 100 * MIB, most_boxes=10_000) < largest(model, 100 * MIB)


def test_where_not_one_image_fits_the_answer_is_none(model):
    assert largest(model, MIB) == 0


def test_one_image_that_fits_is_not_refused(model, traced):
    assert fit.why_not_one(model, traced, SIZE, torch.bfloat16, Memory(10**12, 0, 0, 10**15), ()) is None


def test_one_image_that_does_not_fit_is_refused_with_what_would(model):
    size = (256, 256)
    found = trace(model, (2, 3, *size), torch.bfloat16)
    small = trace(model, (2, 3, 128, 128), torch.bfloat16)
    needed = fit.least_bytes_of_one(small, 0, 0)
    said = fit.why_not_one(model, found, size, torch.bfloat16, Memory(needed, 0, 0, 10**15), ())
    assert "not even one image of 256x256 fits" in said
    assert "imgsz=1" in said
    assert "model=yolo12n.yaml" not in said or "would fit" in said


def test_where_nothing_would_fit_none_is_named(model, traced):
    said = fit.why_not_one(model, traced, SIZE, torch.bfloat16, Memory(1000, 0, 0, 10**15), ())
    assert "imgsz=" not in said
    assert "free memory on the device" in said


def test_advice_is_of_sizes_that_the_model_takes(model):
    """In multiples of its own coarsest stride, not of 32."""
    model_of_64 = DetectionModel("yolo12n.yaml", verbose=False).train()
    model_of_64.stride = torch.tensor([16.0, 32.0, 64.0])
    for budget in range(20, 60, 8):
        for text in fit.advice(model_of_64, (256, 256), torch.bfloat16, 0, budget * MIB):
            assert not text.startswith("imgsz=") or int(text.removeprefix("imgsz=")) % 64 == 0
    assert fit.stride_of(model) == 32


def test_a_size_on_which_the_model_does_not_run_on_shapes_alone_is_not_advised(model, traced, monkeypatch):
    def refuse(*_: object) -> Trace:
        raise RuntimeError("a layer of the user's")

    monkeypatch.setattr(fit, "trace", refuse)
    assert fit.advice(model, SIZE, torch.bfloat16, 0, 10**12) == []
    assert "free memory on the device" in fit.why_not_one(
        model, traced, SIZE, torch.bfloat16, Memory(1000, 0, 0, 10**15)
    )


def test_layers_that_are_left_alone_need_more_in_what_is_advised_too(model):
    found = trace(model, (2, 3, 960, 960), torch.bfloat16)
    all_names = {call.name for call in found.convolutions}
    least, with_all_kept = (fit.least_bytes_of_one(found, 0, 0, alone) for alone in ((), all_names))
    between = (least + with_all_kept) // 2
    assert fit.least_bytes_of_one(found, 0, between) is None
    assert fit.least_bytes_of_one(found, 0, between, all_names) is not None
    free, bound = (fit.advice(model, (992, 992), torch.bfloat16, 0, between, alone)[0] for alone in ((), all_names))
    assert int(free.removeprefix("imgsz=")) >= 960 > int(bound.removeprefix("imgsz="))


def test_where_our_kernels_compute_the_loss_its_assignment_takes_no_room(model, traced, monkeypatch):
    """The head leaves its outputs level by level then."""
    monkeypatch.setattr(fit, "trace", lambda *_: replace(traced, level_bytes=2 * traced.output_elements))
    by_torch, by_kernels = (
        largest(model, 100 * MIB, most_boxes=10_000, loss_by_kernels=by_kernels) for by_kernels in (False, True)
    )
    assert by_kernels > by_torch


def test_the_smaller_models_of_a_family_come_largest_first():
    named = DetectionModel("yolo12m.yaml", verbose=False)
    assert [name for name, _ in fit.smaller_models(named)] == ["yolo12s.yaml", "yolo12n.yaml"]


@given(st.integers(0, 2000), st.sampled_from([32, 64]))
def test_the_largest_size_is_the_last_multiple_that_fits(limit: int, stride: int):
    found = largest_size(lambda size: size <= limit, 1280, stride)
    assert found % stride == 0
    assert found <= limit
    assert found + stride > min(limit, 1280) or limit < fit.SMALLEST_IMGSZ
