# SPDX-License-Identifier: AGPL-3.0-or-later
"""The step on one process: equal to ultralytics' own arithmetic when nothing happens, and whole or absent when something does."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import yolov12.engine.step as step_module
from tests.unit.engine.tiny import assert_equal_gradients, batch, gradients, model, step
from yolov12.engine.last_resort import LastResort
from yolov12.engine.loss_count import Provisional
from yolov12.engine.step import Step
from yolov12.errors import RetryableError
from yolov12.memory import smaller_images
from yolov12.memory.smaller_images import SmallerImages

BOXES = [3, 0, 7, 1]


def stock_gradients(of: Any, *batches: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The gradients that ultralytics' loop accumulates (engine/trainer.py:537-565)."""
    for one in batches:
        loss, _ = of(one)
        loss.sum().backward()
    return gradients(of)


def our_gradients(of: Any, *batches: dict[str, Any], micro_batches: int = 1) -> dict[str, torch.Tensor]:
    runner = step(of)
    runner.micro_batches = micro_batches
    for one in batches:
        runner.run(one)
    runner.take_gradients()
    return gradients(of)


class FailingForward:
    """Runs the model, but raises at chosen calls; counts calls."""

    def __init__(self, of: Any, fail_at: set[int], error: Exception) -> None:
        self.of, self.fail_at, self.error, self.calls = of, fail_at, error, 0

    def __call__(self, one: dict[str, Any]) -> Any:
        self.calls += 1
        result = self.of(one)  # the forward pass has moved the buffers and the random state before it fails
        torch.rand(1)
        if self.calls in self.fail_at:
            raise self.error
        return result


def failing_step(of: Any, fail_at: set[int], error: Exception) -> tuple[Step, FailingForward]:
    runner = step(of)
    runner.forward_loss = FailingForward(of, fail_at, error)
    return runner, runner.forward_loss


OUT_OF_MEMORY = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_a_whole_batch_gives_the_very_bits_of_ultralytics() -> None:
    expected = stock_gradients(model(frozen_batch_norm=False), batch(BOXES))
    assert_equal_gradients(our_gradients(model(frozen_batch_norm=False), batch(BOXES)), expected, rtol=0)


def test_accumulating_two_batches_gives_the_very_bits_of_ultralytics() -> None:
    two = batch(BOXES), batch([1, 1, 2, 5], seed=2)
    assert_equal_gradients(our_gradients(model(), *two), stock_gradients(model(), *two), rtol=0)


@pytest.mark.parametrize("micro_batches", [2, 3, 4, 9])
def test_parts_add_up_to_the_whole_batch_when_batch_norm_is_frozen(micro_batches: int) -> None:
    expected = stock_gradients(model(), batch(BOXES))
    assert_equal_gradients(our_gradients(model(), batch(BOXES), micro_batches=micro_batches), expected, rtol=1e-5)


def test_parts_add_up_over_several_steps_whose_target_counts_differ() -> None:
    three = batch(BOXES), batch([20, 1, 0, 0], seed=2), batch([0, 0, 0, 2], seed=3)
    assert_equal_gradients(our_gradients(model(), *three, micro_batches=2), stock_gradients(model(), *three), rtol=1e-5)


def test_the_first_step_in_parts_gives_fp16_a_loss_as_large_as_those_before() -> None:
    """One that is larger by the targets of an image would overflow, and its update be skipped."""
    runner, crowded = step(model()), batch([40, 40, 40, 40])
    scaled: list[float] = []

    def scale(loss: torch.Tensor) -> torch.Tensor:
        scaled.append(float(loss.detach()))
        return loss

    runner.scale_loss = scale
    runner.run(crowded)
    runner.micro_batches = 2
    runner.run(crowded)
    whole, *parts = scaled
    assert sum(parts) == pytest.approx(whole, rel=0.2)


@pytest.mark.parametrize("says_so", [True, False], ids=["", "of-a-checkpoint-from-before"])
def test_a_run_that_goes_on_elsewhere_has_the_divisor_of_the_one_that_was_cut(says_so: bool) -> None:
    one, other = (Provisional(torch.device("cpu"), is_alone=True) for _ in range(2))
    part: Any = SimpleNamespace(divisor=torch.tensor(12.0))
    one.corrected_by(torch.tensor([6.0, 2.0]))
    other.go_on_from({key: value for key, value in one.kept().items() if says_so or key == "targets_per_image"})
    assert other.factor(part, images=2) == one.factor(part, images=2) == 2


def test_a_run_cut_before_anything_was_counted_counts_first_where_it_goes_on() -> None:
    one, other = (Provisional(torch.device("cpu"), is_alone=True) for _ in range(2))
    other.go_on_from(one.kept())
    assert other.factor(SimpleNamespace(divisor=torch.tensor(12.0)), images=2) == 1  # type: ignore[arg-type]  # as far as it is used


def test_a_count_that_is_not_finite_outlives_no_step() -> None:
    divisor = Provisional(torch.device("cpu"), is_alone=True)
    lost: Any = SimpleNamespace(divisor=torch.tensor(torch.nan))
    divisor.factor(lost, images=2)
    assert divisor.targets_per_image == 1
    divisor.corrected_by(torch.tensor([torch.nan, 2.0]))
    assert divisor.targets_per_image == 1
    divisor.corrected_by(torch.tensor([6.0, 2.0]))
    assert divisor.targets_per_image == 3


def test_a_batch_without_any_box_still_trains_the_classes() -> None:
    expected = stock_gradients(model(), batch([0, 0]))
    assert_equal_gradients(our_gradients(model(), batch([0, 0]), micro_batches=2), expected, rtol=1e-5)


def test_a_picture_of_two_thousand_objects_is_ordinary() -> None:
    crowded = batch([2000, 1, 0])
    expected = stock_gradients(model(), crowded)
    assert_equal_gradients(our_gradients(model(), crowded, micro_batches=2), expected, rtol=1e-5)


def test_the_mean_losses_of_parts_are_those_of_the_whole() -> None:
    of = model()
    _, expected = of(batch(BOXES))
    runner = step(model())
    runner.micro_batches = 2
    items = runner.run(batch(BOXES)).items
    for name, value in expected.items():
        assert float(items[name]) == pytest.approx(float(value), rel=1e-6), name


def test_frozen_parameters_get_no_gradient() -> None:
    of = model()
    frozen = dict(of.named_parameters())["model.0.conv.weight"]
    frozen.requires_grad = False
    our_gradients(of, batch(BOXES))
    assert frozen.grad is None


def test_an_end_to_end_head_is_weighted_by_images() -> None:
    of = model(config="yolov10n.yaml")
    runner = step(of)
    runner.micro_batches = 2
    runner.run(batch(BOXES))
    first, second = batch(BOXES), batch(BOXES)
    for part, images in ((first, slice(0, 2)), (second, slice(2, 4))):
        inside = (part["batch_idx"] >= images.start) & (part["batch_idx"] < images.stop)
        for key in ("cls", "bboxes", "batch_idx"):
            part[key] = part[key][inside]
        part["img"] = part["img"][images]
        part["batch_idx"] = part["batch_idx"] - images.start
    expected = stock_gradients(model(config="yolov10n.yaml"), first, second)
    runner.take_gradients()
    assert_equal_gradients(gradients(of), expected, rtol=1e-5)


def test_out_of_memory_repeats_the_same_data_in_smaller_parts(capsys: pytest.CaptureFixture[str]) -> None:
    of = model()
    runner, forward = failing_step(of, {1}, OUT_OF_MEMORY)
    runner.run(batch(BOXES))
    runner.take_gradients()
    assert forward.calls == 1 + 2
    assert_equal_gradients(gradients(of), stock_gradients(model(), batch(BOXES)), rtol=1e-5)
    assert "micro-batches 1 -> 2" in capsys.readouterr().err


def test_out_of_memory_in_a_later_part_drops_the_earlier_parts_too() -> None:
    of = model()
    runner, _ = failing_step(of, {1, 3}, OUT_OF_MEMORY)  # the whole, then the second of two halves
    runner.run(batch(BOXES))
    runner.take_gradients()
    assert runner.micro_batches == 4
    assert_equal_gradients(gradients(of), stock_gradients(model(), batch(BOXES)), rtol=1e-5)


class PlanInSteps:
    """Stands in for the memory plan: can be tightened so often; from then on asks for `parts`."""

    def __init__(self, tighter: int, parts: int = 1, fits: bool = False) -> None:
        self.tighter, self.parts, self.asked_for, self.fits = tighter, parts, 1, fits

    def fits_now(self) -> bool:
        return self.fits

    def before(self, shape: tuple[int, ...]) -> int:
        return self.asked_for

    def watched(self, peaks: object, parts: int) -> AbstractContextManager[None]:
        return nullcontext()

    def tighten(self) -> str | None:
        if not self.tighter:
            return None
        self.tighter, self.asked_for = self.tighter - 1, self.parts
        return "recompute 0 -> 1"


def test_out_of_memory_tightens_the_plan_before_the_batch_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    of = model()
    runner, forward = failing_step(of, {1, 2}, OUT_OF_MEMORY)
    runner.recomputation = PlanInSteps(tighter=2)
    runner.run(batch(BOXES))
    runner.take_gradients()
    assert forward.calls == 3
    assert_equal_gradients(gradients(of), stock_gradients(model(), batch(BOXES)), rtol=0)
    assert capsys.readouterr().err.count("recompute 0 -> 1") == 2


def test_a_step_that_failed_though_its_memory_is_there_is_repeated_as_it_was_and_then_tightened() -> None:
    of = model()
    runner, forward = failing_step(of, {1, 3, 5, 6}, OUT_OF_MEMORY)
    runner.recomputation = PlanInSteps(tighter=2, fits=True)
    runner.run(batch(BOXES))
    assert (forward.calls, runner.recomputation.tighter) == (2, 2)
    runner.run(batch(BOXES))  # fails again one step later
    assert (forward.calls, runner.recomputation.tighter) == (4, 1)
    runner.run(batch(BOXES))  # and twice more
    assert (forward.calls, runner.recomputation.tighter, runner.micro_batches) == (6 + 2, 0, 2)


def test_where_the_plan_can_not_be_tightened_the_batch_is_cut() -> None:
    of = model()
    runner, forward = failing_step(of, {1, 2}, OUT_OF_MEMORY)
    runner.recomputation = PlanInSteps(tighter=1)
    runner.run(batch(BOXES))
    assert forward.calls == 2 + 2
    assert runner.micro_batches == 2


def test_a_plan_may_ask_for_micro_batches() -> None:
    of = model()
    runner, forward = failing_step(of, {1}, OUT_OF_MEMORY)
    runner.recomputation = PlanInSteps(tighter=1, parts=4)
    runner.run(batch(BOXES))
    runner.take_gradients()
    assert forward.calls == 1 + 4
    assert_equal_gradients(gradients(of), stock_gradients(model(), batch(BOXES)), rtol=1e-5)


def test_a_repeated_step_starts_from_the_buffers_and_random_state_of_the_first_attempt() -> None:
    undisturbed, disturbed = model(frozen_batch_norm=False), model(frozen_batch_norm=False)
    torch.manual_seed(5)
    reference = step(undisturbed)
    reference.micro_batches = 2
    reference.forward_loss = FailingForward(undisturbed, set(), OUT_OF_MEMORY)
    reference.run(batch(BOXES))
    after_reference = torch.rand(3)
    torch.manual_seed(5)
    runner, _ = failing_step(disturbed, {1}, OUT_OF_MEMORY)
    runner.run(batch(BOXES))
    assert torch.equal(torch.rand(3), after_reference)
    for (name, ours), expected in zip(disturbed.named_buffers(), undisturbed.buffers(), strict=True):
        assert torch.equal(ours, expected), name


def test_gradients_of_earlier_steps_survive_a_repeated_one() -> None:
    of = model()
    runner, _ = failing_step(of, {2}, OUT_OF_MEMORY)
    for one in (batch(BOXES), batch([1, 1, 2, 5], seed=2)):
        runner.run(one)
    runner.take_gradients()
    expected = stock_gradients(model(), batch(BOXES), batch([1, 1, 2, 5], seed=2))
    assert_equal_gradients(gradients(of), expected, rtol=1e-5)


def test_one_image_that_does_not_fit_ends_the_run_with_what_to_do() -> None:
    runner, forward = failing_step(model(), set(range(100)), OUT_OF_MEMORY)
    runner.waits_s = (0.0, 0.0)
    with pytest.raises(RetryableError, match=r"one image at a time.*smaller imgsz"):
        runner.run(batch(BOXES))
    assert forward.calls == 3 + 2  # whole, halves, single images: one failing call each, and two more tries of the last


def test_one_image_that_fits_after_a_moment_goes_on() -> None:
    of = model()
    runner, _ = failing_step(of, {1, 2, 3, 4}, OUT_OF_MEMORY)
    runner.waits_s = (0.0, 0.0)
    runner.run(batch(BOXES))
    runner.take_gradients()
    assert_equal_gradients(gradients(of), stock_gradients(model(), batch(BOXES)), rtol=1e-5)


def test_after_a_calm_time_the_parts_grow_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "CALM_STEPS", 2)
    runner, forward = failing_step(model(), {1, 2}, OUT_OF_MEMORY)
    runner.run(batch(BOXES))
    assert runner.micro_batches == 4
    for _ in range(3):
        runner.run(batch(BOXES))
    assert runner.micro_batches == 1
    assert forward.calls == (1 + 1 + 4) + 4 + 2 + 2
    assert [event.what.split(",")[0] for event in runner.history.events if event.kind == "split"][2:] == [
        "4 -> 2 micro-batches",
        "2 -> 1 micro-batches",
    ]


def test_the_end_names_the_setting_that_would_go_on_with_smaller_images() -> None:
    runner, _ = failing_step(model(), set(range(100)), OUT_OF_MEMORY)
    with pytest.raises(RetryableError, match="set YOLOV12_MAS_DATA=1 to go on with smaller images"):
        runner.run(batch(BOXES))


class FitsBelow:
    """Runs the model, but runs out of memory where a part has more than so many pixels a side or more than one image."""

    def __init__(self, of: Any, limit_px: int) -> None:
        self.of, self.limit_px, self.sides = of, limit_px, []

    def __call__(self, one: dict[str, Any]) -> Any:
        images, _, _, side = one["img"].shape
        self.sides.append(side)
        result = self.of(one)
        if images > 1 or side > self.limit_px:
            raise OUT_OF_MEMORY
        return result


def shrinking_step(of: Any, limit_px: int) -> tuple[Step, FitsBelow]:
    runner = step(of)
    runner.last_resort = LastResort(SmallerImages(imgsz=192, stride=32), runner.history)
    runner.forward_loss = FitsBelow(of, limit_px)
    runner.waits_s = ()
    return runner, runner.forward_loss


class Told(PlanInSteps):
    """Stands in for the memory plan; remembers the sizes that it heard of."""

    def __init__(self) -> None:
        super().__init__(tighter=0)
        self.sides: list[int] = []

    def before(self, shape: tuple[int, ...]) -> int:
        self.sides.append(shape[-1])
        return 1


LARGE = batch([3, 1], imgsz=192)


def test_where_one_image_does_not_fit_the_step_is_repeated_on_smaller_ones(capsys: pytest.CaptureFixture[str]) -> None:
    of = model()
    runner, forward = shrinking_step(of, limit_px=128)
    runner.run(LARGE)
    runner.take_gradients()
    assert forward.sides == [
        192,
        192,
        160,
        128,
        128,
    ]  # both images, then one of two at each size, and both at the one that fits
    small = {**LARGE, "img": F.interpolate(LARGE["img"], size=(128, 128), mode="bilinear", align_corners=False)}
    assert_equal_gradients(gradients(of), stock_gradients(model(), small), rtol=1e-5)
    assert "image size 160 -> 128" in capsys.readouterr().err
    assert runner.history.count("smaller images") == 2
    assert (runner.history.steps, runner.history.smaller_steps) == (1, 1)


def test_the_next_step_begins_at_the_size_that_fitted() -> None:
    runner, forward = shrinking_step(model(), limit_px=128)
    runner.run(LARGE)
    forward.sides.clear()
    runner.run(LARGE)
    assert forward.sides == [128, 128]


def test_a_batch_that_was_small_already_is_not_counted_as_made_smaller() -> None:
    runner, _ = shrinking_step(model(), limit_px=128)
    runner.run(LARGE)
    runner.run({**LARGE, "img": LARGE["img"][..., :128, :128].contiguous()})
    assert (runner.history.steps, runner.history.smaller_steps) == (2, 1)


def test_full_size_comes_back_after_a_calm_period_and_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smaller_images, "CALM_STEPS", 2)
    runner, forward = shrinking_step(model(), limit_px=160)
    runner.run(LARGE)
    runner.run(LARGE)
    forward.limit_px = 192
    forward.sides.clear()
    runner.run(LARGE)
    assert forward.sides == [192, 192]
    assert runner.history.events[-1].what == "image size 160 -> full, after a calm period"
    assert (runner.history.steps, runner.history.smaller_steps) == (3, 2)


def test_the_plan_is_told_the_size_that_a_step_computes_with() -> None:
    runner, _ = shrinking_step(model(), limit_px=160)
    runner.micro_batches = 2
    runner.recomputation = Told()
    runner.run(LARGE)
    assert runner.recomputation.sides == [192, 160]


def test_images_of_half_the_size_that_do_not_fit_end_the_run() -> None:
    runner, forward = shrinking_step(model(), limit_px=64)
    with pytest.raises(RetryableError, match="images of 96 pixels are the smallest that mas_data=1 allows"):
        runner.run(LARGE)
    assert min(forward.sides) == 96


def test_what_one_image_needed_is_looked_at_while_it_is_there_and_stands_in_the_error() -> None:
    runner, forward = failing_step(model(), set(range(100)), OUT_OF_MEMORY)
    looked_at: list[int] = []
    runner.explain_failure = lambda: looked_at.append(forward.calls) or "; memory went to: model.0"
    with pytest.raises(RetryableError, match=r"smaller imgsz.*; memory went to: model\.0$"):
        runner.run(batch(BOXES))
    assert looked_at[0] == 3  # single images, not the attempts before


def test_another_error_is_raised_as_it_is() -> None:
    runner, _ = failing_step(model(), {1}, ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug") as caught:
        runner.run(batch(BOXES))
    assert caught.value.__traceback__ is not None


def test_after_forgetting_a_nan_step_the_next_one_is_as_on_a_fresh_start() -> None:
    of = model()
    runner = step(of)
    runner.micro_batches = 2
    poisoned = batch(BOXES)
    poisoned["img"] = poisoned["img"] * float("nan")
    runner.run(poisoned)
    runner.forget()
    runner.run(batch(BOXES))
    runner.take_gradients()
    assert_equal_gradients(gradients(of), our_gradients(model(), batch(BOXES), micro_batches=2), rtol=0)


def test_forgetting_drops_what_was_put_aside() -> None:
    of = model()
    runner = step(of)
    runner.run(batch(BOXES))
    runner.forget()
    runner.take_gradients()
    assert gradients(of) == {}
