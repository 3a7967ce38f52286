# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

import numpy as np
import pytest
import torch

from yolov12.data.augment import Hyperparameters, Source, draw, render

HYP = Hyperparameters(imgsz=32)


def source(image: torch.Tensor) -> Source:
    return Source(image, np.zeros(0, np.float32), np.zeros((0, 4), np.float32))


def recipe_of_one():
    return draw(np.random.default_rng(0), np.array([4]), HYP, lambda rng, count: np.zeros(count))


def test_a_picture_that_is_not_moved_comes_out_as_it_is_in_red_green_blue():
    image = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8)
    rendered = render(recipe_of_one(), {4: source(image)}, "cpu")
    assert torch.equal(rendered.img[0], image.permute(2, 0, 1).flip(0))
    assert [tuple(labels.shape) for labels in (rendered.cls, rendered.bboxes, rendered.batch_idx)] == [
        (0, 1),
        (0, 4),
        (0,),
    ]


def test_a_source_may_be_a_view():
    image = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8).permute(1, 2, 0)[:32, 4:36]
    rendered = render(recipe_of_one(), {4: source(image)}, "cpu")
    assert torch.equal(rendered.img[0], image.permute(2, 0, 1).flip(0))


@pytest.mark.parametrize(
    "image", [torch.zeros(32, 32, 3), torch.zeros(32, 32, dtype=torch.uint8), torch.zeros(3, 32, 32).byte()]
)
def test_a_picture_of_another_kind_is_refused_by_its_index(image):
    with pytest.raises(ValueError, match=r"picture 4: .*uint8 is expected"):
        render(recipe_of_one(), {4: source(image)}, "cpu")


def test_a_picture_on_another_device_is_refused():
    image = torch.zeros(32, 32, 3, dtype=torch.uint8, device="meta")
    with pytest.raises(ValueError, match="picture 4 is on meta, and the batch is made on cpu"):
        render(recipe_of_one(), {4: source(image)}, "cpu")


def test_a_picture_that_is_missing_is_a_key_error():
    with pytest.raises(KeyError):
        render(recipe_of_one(), {}, "cpu")
