# SPDX-License-Identifier: AGPL-3.0-or-later
"""The head's outputs level by level: joined as upstream joins them, and only for heads and devices where nobody needs them joined."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from ultralytics.nn.modules.head import Detect, Segment, v10Detect

from yolov12.model.loss import levels
from yolov12.model.loss.levels import Levels

CHANNELS = (16, 32)


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    levels.install()
    yield
    levels.uninstall()


def features(device: str = "cpu", images: int = 2) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.rand(images, c, 8 // (i + 1), 4, device=device) for i, c in enumerate(CHANNELS)]


def test_joined_outputs_are_upstreams_to_the_bit():
    head, x = Detect(nc=3, ch=CHANNELS), features()
    expected = levels._upstream_forward_head(head, x, **head.one2many)
    kept = Levels([conv(x[i]) for i, conv in enumerate(head.cv2)], [conv(x[i]) for i, conv in enumerate(head.cv3)], x)
    for key in ("boxes", "scores"):
        assert torch.equal(kept[key], expected[key])
        assert key in kept, "it is made once"


def test_an_output_that_the_head_does_not_have_is_a_key_error():
    with pytest.raises(KeyError):
        Levels([], [], [])["masks"]


def test_on_a_gpu_the_levels_stay_apart():
    """`meta` stands for one: a step is followed there on shapes alone."""
    made = Detect(nc=3, ch=CHANNELS).to("meta")(features("meta"))
    assert isinstance(made, Levels)
    assert [tuple(level.shape) for level in made.scores] == [(2, 3, 8, 4), (2, 3, 4, 4)]


def test_on_the_cpu_upstreams_head_runs():
    assert not isinstance(Detect(nc=3, ch=CHANNELS)(features()), Levels)


@pytest.mark.parametrize("kind", [Segment, v10Detect])
def test_heads_of_another_kind_are_left_alone(kind):
    assert not levels.is_plain(kind(nc=3, ch=CHANNELS))


def test_no_gradient_no_levels():
    with torch.no_grad():
        assert not isinstance(Detect(nc=3, ch=CHANNELS).to("meta")(features("meta")), Levels)
