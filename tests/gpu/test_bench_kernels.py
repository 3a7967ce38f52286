# SPDX-License-Identifier: AGPL-3.0-or-later
"""benchmarks/kernels on a GPU: graphs are timed, and every way of a row runs. Needs one NVIDIA GPU from sm_80 on.

python -m pytest tests/gpu/test_bench_kernels.py
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.kernels import clock, inference, training
from benchmarks.kernels.inference import TILES, Place
from tests.gpu.compiled import OPS, skip_without_code
from yolov12.model import attention

PLACE = Place(torch.device("cuda", 0), OPS, 160)


@pytest.fixture(autouse=True)
def kernels() -> None:
    skip_without_code(least=(8, 0))
    attention.install()
    torch.manual_seed(0)


def test_a_call_that_does_more_takes_longer_and_one_that_fails_keeps_no_other():
    small, large = (torch.randn(n, n, device="cuda") for n in (64, 4096))

    def broken() -> None:
        raise RuntimeError("no such kernel\nsecond line")

    by = clock.GpuClock(repeats=3)
    us, failed = by.race({"small": [small.square], "large": [large.square], "broken": [broken]}, calls=4)
    assert us["small"] < us["large"]
    assert failed == {"broken": "no such kernel"}


def test_the_op_names_the_tile_that_is_taken():
    x = torch.randn(1, 64, 40, 40, device="cuda").half().to(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, device="cuda").half().to(memory_format=torch.channels_last)
    assert OPS.fused_conv_tile(x, weight, 1) in range(len(TILES))
    with pytest.raises(RuntimeError, match="channels_last"):
        OPS.fused_conv_tile(x, weight, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: inference.fused_conv(PLACE, "n", 1)[:3],
        lambda: inference.fused_depthwise(PLACE, "n", 1)[:2],
        lambda: inference.decode(PLACE, 2),
        lambda: inference.network(PLACE, "n", 1),
        lambda: list(inference.attend(PLACE, 100).values())[:2],
        lambda: training.norm_forward(PLACE, "n", 2)[:2],
        lambda: training.norm_backward(PLACE, "n", 2)[:2],
        lambda: training.join(PLACE, "n", 2)[:2],
        lambda: training.stem_forward(PLACE, "n", 2),
        lambda: training.stem_backward(PLACE, "n", 2),
        lambda: training.depthwise_forward(PLACE, "n", 2)[:1],
        lambda: training.depthwise_backward(PLACE, "n", 2)[:1],
    ],
)
def test_every_way_runs(make):
    by = clock.GpuClock(repeats=2)
    with torch.no_grad():
        results = [clock.hold(contest, by, is_cold=True) for contest in make()]
    assert [result.failed for result in results] == [{}] * len(results)
    assert all(us > 0 for result in results for us in result.us.values())
