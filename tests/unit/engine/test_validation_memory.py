# SPDX-License-Identifier: AGPL-3.0-or-later
"""A validation that runs out of memory answers what one that did not would have answered, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from ultralytics.models.yolo.detect.val import DetectionValidator

from tests.unit.engine.tiny import batch, model
from yolov12.engine import validation_memory
from yolov12.engine.validation_memory import joined, sliced, surviving
from yolov12.errors import RetryableError
from yolov12.memory.history import History

OUT_OF_MEMORY = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
BOXES = [3, 0, 7, 1, 2]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation_memory, "WAITS_S", (0.0,))


class Validator:
    """The calls that ultralytics' validator makes (engine/validator.py:151), with its NMS."""

    args = SimpleNamespace(conf=0.001, iou=0.7, task="detect", single_cls=False, agnostic_nms=False, max_det=20)
    end2end = False
    nc = 3
    gathered = 0

    def init_metrics(self, of: Any) -> None: ...

    def preprocess(self, one: dict[str, Any]) -> dict[str, Any]:
        return one

    def postprocess(self, predictions: Any) -> list[dict[str, Tensor]]:
        return DetectionValidator.postprocess(self, predictions)

    def gather_stats(self) -> None:
        self.gathered += 1

    @torch.inference_mode()
    def __call__(self, of: Any) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        self.init_metrics(of)
        one = self.preprocess(batch(BOXES))
        predictions = of(one["img"], augment=False)
        items = of.loss(one, predictions)[1]
        found = self.postprocess(predictions)
        self.gather_stats()
        return items, found


def failing(function: Callable[..., Any], times: int) -> Callable[..., Any]:
    left = iter(range(times))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(left, None) is not None:
            raise OUT_OF_MEMORY
        return function(*args, **kwargs)

    return call


def fail(validator: Validator, of: Any, point: str, times: int) -> None:
    """Make the innermost calls fail, below what stands in for them."""
    if point == "forward":
        of._predict_once = failing(of._predict_once, times)
    elif point == "loss":
        of.criterion = of.init_criterion()
        of.criterion.assigner.forward = failing(of.criterion.assigner.forward, times)
    else:
        setattr(validator, point, failing(getattr(validator, point), times))


@pytest.mark.parametrize(
    ("point", "times"),
    [
        ("preprocess", 1),
        ("forward", 1),
        ("forward", 3),
        ("loss", 1),
        ("loss", 3),
        ("postprocess", 1),
        ("postprocess", 3),
    ],
)
def test_the_answers_are_those_of_an_undisturbed_validation(point: str, times: int) -> None:
    items, found = Validator()(model().eval())
    of, validator, history = model().eval(), Validator(), History()
    fail(validator, of, point, times)
    with surviving(validator, history):
        our_items, ours = validator(of)
    assert history.count("validation") == times
    for name, value in items.items():
        assert float(our_items[name]) == pytest.approx(float(value), rel=1e-5), name
    assert len(ours) == len(BOXES)
    for our_image, image in zip(ours, found, strict=True):
        for key, value in image.items():
            torch.testing.assert_close(our_image[key], value)


def test_losses_of_an_end_to_end_head_are_weighted_by_images() -> None:
    items, _ = Validator()(model(config="yolov10n.yaml").eval())
    of, validator = model(config="yolov10n.yaml").eval(), Validator()
    of._predict_once = failing(of._predict_once, 1)
    with surviving(validator, History()):
        assert validator(of)[0].keys() == items.keys()


def test_one_image_that_does_not_fit_ends_the_run_with_what_to_do() -> None:
    of, validator = model().eval(), Validator()
    fail(validator, of, "forward", times=100)
    ended = pytest.raises(RetryableError, match=r"validation with one image at a time.*smaller imgsz")
    with ended, surviving(validator, History()):
        validator(of)


def test_another_error_is_raised_as_it_is() -> None:
    of, validator = model().eval(), Validator()
    validator.postprocess = lambda predictions: int("a bug")
    with pytest.raises(ValueError, match="a bug"), surviving(validator, History()):
        validator(of)


def test_nothing_stays_in_the_model_or_the_validator() -> None:
    of, validator = model().eval(), Validator()
    with surviving(validator, History()):
        validator(of)
        validator(of)
    assert not {"forward", "loss"} & vars(of).keys()
    assert not vars(validator).keys() - {"gathered"}
    assert validator.gathered == 2


def test_predictions_are_cut_and_joined_in_order() -> None:
    whole = (torch.arange(5), {"boxes": torch.rand(5, 2), "feats": [torch.rand(5, 3), torch.rand(5, 1)]}, None)
    parts = [sliced(whole, slice(0, 2)), sliced(whole, slice(2, 5))]
    torch.testing.assert_close(joined(parts)[:2], whole[:2])
