# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a network asks of kernels, read from the network itself, without data."""

from __future__ import annotations

import pytest
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from benchmarks.kernels import shapes
from benchmarks.kernels.shapes import Convolution, Joined, Norm


@pytest.fixture(scope="module")
def nano() -> DetectionModel:
    return DetectionModel("yolo12n.yaml", nc=80, verbose=False)


@pytest.fixture(scope="module")
def convolutions():
    return shapes.convolutions("n", 2, 640)


def test_every_convolution_is_counted_but_that_of_a_distributions_mean(nano, convolutions):
    modules = [module for module in nano.modules() if type(module) is nn.Conv2d]
    assert sum(convolutions.values()) == len(modules) - 1


def test_their_shapes_are_those_of_the_network(convolutions):
    (stem,) = (shape for shape in convolutions if shape.is_stem)
    assert stem == Convolution(2, 3, 16, 3, 2, 640, 640, 1, silu=True)
    assert convolutions[Convolution(2, 16, 32, 3, 2, 320, 320, 1, silu=True)] == 1
    assert convolutions[Convolution(2, 64, 64, 1, 1, 80, 80, 1, silu=False)] == 1  # the last of a branch of boxes
    # Two blocks of two attentions each, at either stage: qkv without SiLU, positions by a filter for each channel.
    assert convolutions[Convolution(2, 64, 192, 1, 1, 40, 40, 1, silu=False)] == 4
    assert convolutions[Convolution(2, 64, 64, 7, 1, 40, 40, 64, silu=False)] == 4


def test_those_with_a_filter_for_each_channel_are_told_apart(convolutions):
    sides = sorted({shape.side for shape in convolutions if shape.is_depthwise})
    assert sides == [3, 7]
    assert all(shape.groups == 1 for shape in convolutions if not shape.is_depthwise)


def test_a_convolution_knows_what_it_makes_and_what_it_moves():
    shape = Convolution(2, 8, 16, 3, 2, 5, 4, 1, silu=True)
    assert (shape.out_height, shape.out_width) == (3, 2)
    assert shape.moved_bytes == 2 * (2 * 8 * 5 * 4 + 16 * 8 * 9 + 2 * 16 * 3 * 2)
    assert shape.words() == "8>16 3x3/2 5x4 silu"
    assert Convolution(1, 8, 8, 7, 1, 5, 4, 8, silu=False).words() == "depthwise 8 7x7/1 5x4"


def test_every_batch_norm_is_counted(nano):
    found = shapes.norms("n", 2, 64)
    assert sum(found.values()) == sum(type(module) is nn.BatchNorm2d for module in nano.modules())
    assert found[Norm(2, 16, 32, 32, silu=True)] == 1
    assert any(not shape.silu for shape in found)


def test_concatenations_between_layers_and_in_blocks_are_there():
    found = shapes.joins("n", 2, 640)
    assert found[Joined(2, 40, 40, (256, 128), (True, False))] == 1  # layer 10, after upsampling
    assert found[Joined(2, 80, 80, (128, 128), (True, False))] == 1  # layer 13
    assert found[Joined(2, 160, 160, (16, 16, 16), (False,) * 3)] == 1  # a C3k2
    assert found[Joined(2, 40, 40, (64,) * 3, (False,) * 3)] == 1  # an A2C2f of two pairs of blocks


def test_what_is_upsampled_is_read_once_for_four_pixels():
    shape = Joined(1, 4, 6, (8, 16), (True, False))
    assert shape.moved_bytes == 2 * 24 * (8 // 4 + 16 + 24)
    assert shape.words() == "8 up+16 4x6"
