# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every way of every contest does the same, by stand-ins for our ops on the CPU: operands are laid out and named as the ops want them."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from itertools import chain

import pytest
import torch

from benchmarks.kernels import clock, inference, training
from benchmarks.kernels.contest import OTHER, Contest
from benchmarks.kernels.inference import TILES, Place
from tests.unit.benchmarks.kernels.stand_ins import CHOSEN, Ops, ToldClock

ROUNDED = {torch.float16: 2e-2, torch.bfloat16: 6e-2, torch.float32: 6e-2}
"""Several operations round several times; float32 are sums of bfloat16's."""
APART = {training.STATISTICS, training.APPLY}
"""Parts of a way, which answer something else."""

PLACE = Place(torch.device("cpu"), Ops(), 64)

MAKERS: list[Callable[[Place], list[Contest]]] = [
    partial(inference.fused_conv, size="n", images=1),
    partial(inference.fused_depthwise, size="n", images=2),
    partial(inference.decode, images=2),
    *(
        partial(make, size="n", images=2)
        for make in (
            training.norm_forward,
            training.norm_backward,
            training.depthwise_forward,
            training.depthwise_backward,
            training.stem_forward,
            training.stem_backward,
            training.join,
        )
    ),
]


def tensors(answer: object) -> list[torch.Tensor]:
    """Those of an answer that are there: a gradient that was not asked for is None."""
    if isinstance(answer, torch.Tensor):
        return [answer]
    return list(chain.from_iterable(map(tensors, answer))) if isinstance(answer, (tuple, list)) else []


def assert_alike(answers: dict[str, object]) -> None:
    expected = tensors(answers[OTHER])
    assert expected
    for name, answer in answers.items():
        if name in APART:
            continue
        made = tensors(answer)
        assert len(made) == len(expected), name
        for one, other in zip(made, expected, strict=True):
            limit = ROUNDED[other.dtype] * (1 + other.float().abs().max())
            assert (one.float() - other.float()).abs().max() <= limit, name


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.func.__name__)
def test_all_ways_give_the_same(make: Callable[[Place], list[Contest]]):
    torch.manual_seed(0)
    by = ToldClock()
    with torch.no_grad():
        results = [clock.hold(contest, by, is_cold=True) for contest in make(PLACE)]
    assert results
    for answers in by.answers:
        assert_alike(answers)


def test_attention_by_the_dispatcher_and_by_ours_is_the_same_and_rows_double():
    torch.manual_seed(0)
    by = ToldClock()
    contests = inference.attend(PLACE, 100)
    assert list(contests) == [200 * 2**power for power in range(9)]
    with torch.no_grad():
        clock.hold(contests[400], by, is_cold=False)
    assert_alike(by.answers[0])


def test_a_convolutions_choice_is_the_ops_and_all_tiles_compete():
    (first, *_) = inference.fused_conv(PLACE, "n", 1)
    assert (first.chosen, first.choices) == (TILES[CHOSEN], TILES)
    assert set(first.ways(1)) == {OTHER, inference.EARLY, *TILES}


def test_the_tiles_are_those_of_the_kernel(repository):
    header = (repository / "docker/kernels/fused_conv.h").read_text()
    (table,) = re.findall(r"kTiles\[\] = \{(.*?)\};", header, re.DOTALL)
    assert (
        tuple(f"{pixels}x{channels}" for pixels, channels in re.findall(r"\{(\d+), (\d+), \d+, \d+\}", table)) == TILES
    )


def test_both_networks_answer_alike():
    by = ToldClock()
    (contest,) = inference.network(Place(torch.device("cpu"), Ops(), 32), "n", 1)
    with torch.no_grad():
        clock.hold(contest, by, is_cold=False)
    assert_alike(by.answers[0])
