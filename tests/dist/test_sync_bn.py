# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two gloo ranks with synchronised batch norm equal one process with the whole batch, whatever their shares."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from tests.dist.ranks import run
from tests.dist.test_two_ranks import join
from tests.unit.engine.tiny import batch, gradients, model, step
from yolov12.distributed.sync_bn import SyncedBatchNorm2d, synchronise
from yolov12.memory.micro_batch import TARGET_KEYS
from yolov12.model import fused

BOXES = [3, 0, 7, 1, 12, 2]
SMALL = {
    "nc": 3,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "C2f", [16, True]],
        *[[-1, 1, "Conv", [16, 3, 2]]] * 3,
    ],
    "head": [[[3, 4, 5], 1, "Detect", ["nc"]]],
}
"""A detector with a dozen convolutions."""


def part(whole: dict[str, Any], first: int, end: int) -> dict[str, Any]:
    """Images [first, end) of a batch."""
    rows = (whole["batch_idx"] >= first) & (whole["batch_idx"] < end)
    cut = {key: whole[key][rows] for key in TARGET_KEYS if key != "batch_idx"}
    cut["batch_idx"] = whole["batch_idx"][rows] - first
    return {**cut, "img": whole["img"][first:end], "im_file": whole["im_file"][first:end]}


def statistics(of: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.double() for name, value in of.named_buffers() if "running" in name or "tracked" in name}


def trained(of: Any, group: Any, batches: list[dict[str, Any]]) -> tuple[dict, dict]:
    runner = step(of, vote_group=group)
    for one in batches:
        runner.run(one)
    runner.take_gradients()
    return gradients(of), statistics(of)


def _of_a_rank(rank: int, group: Any, cut: int, recomputes: bool) -> tuple[dict, dict]:
    of = model(frozen_batch_norm=False, config=SMALL)
    fused.choose({m: fused.Keep.NOTHING for m in of.modules() if recomputes and type(m).__name__ == "Conv"})
    synchronise(of)
    edges = [(0, cut), (cut, len(BOXES))]
    return trained(of, group, [part(batch(BOXES, seed=seed), *edges[rank]) for seed in range(2)])


def _alone_with_all_images(rank: int) -> list[torch.Tensor]:
    norm = nn.BatchNorm2d(3)
    synchronise(norm)
    x = images(4 if rank == 0 else 0)
    norm(x).square().sum().backward()
    return [norm.running_mean, norm.running_var, x.grad]


def _in_half_precision(rank: int) -> list[torch.Tensor]:
    norm = nn.BatchNorm2d(2)
    synchronise(norm)
    x = torch.full((1, 2, 8, 8), 300.0 + rank).bfloat16().requires_grad_()
    output = norm(x)
    output.sum().backward()
    return [output.detach(), norm.running_mean, x.grad]


def _everything(rank: int) -> dict[str, Any]:
    group = join()
    fused.install()
    return {
        "plain": _of_a_rank(rank, group, cut=2, recomputes=False),
        "recomputes": _of_a_rank(rank, group, cut=3, recomputes=True),
        "alone": _alone_with_all_images(rank),
        "half": _in_half_precision(rank),
    }


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    """What each of two ranks found, from one start of the processes."""
    return run(_everything, 2)


@pytest.mark.parametrize("how", ["plain", "recomputes"])
def test_two_ranks_equal_one_process_in_gradients_and_running_statistics(ranks: list[dict], how: str) -> None:
    of = model(frozen_batch_norm=False, config=SMALL)
    expected, running = trained(of, None, [batch(BOXES, seed=seed) for seed in range(2)])
    for got, got_running in (rank[how] for rank in ranks):
        assert got.keys() == expected.keys()
        for name, gradient in expected.items():  # that of a bias in front of another batch norm is nothing but rounding
            assert (got[name] - gradient).norm() <= 1e-6 * gradient.norm() + 1e-10, name
        for name, value in running.items():
            assert torch.allclose(got_running[name], value, rtol=1e-6), name


def test_a_rank_without_images_takes_part_and_has_the_same_statistics(ranks: list[dict]) -> None:
    plain, x = nn.BatchNorm2d(3), images(4)
    plain(x).square().sum().backward()
    first, second = (rank["alone"] for rank in ranks)
    for got, expected in zip(first, [plain.running_mean, plain.running_var, x.grad], strict=True):
        assert torch.allclose(got, expected, atol=1e-6)
    assert all(torch.equal(one, other) for one, other in zip(first[:2], second[:2], strict=True))
    assert second[2].shape == (0, 3, 2, 2)


def test_half_precision_keeps_its_format_and_sums_in_a_wider_one(ranks: list[dict]) -> None:
    for output, mean, gradient in (rank["half"] for rank in ranks):
        assert output.dtype is gradient.dtype is torch.bfloat16
        assert torch.allclose(mean, torch.full((2,), 30.1), atol=0.2)


def test_copies_and_files_are_of_upstreams_class() -> None:
    norm = nn.Sequential(nn.BatchNorm2d(4))
    assert synchronise(norm) == 1
    assert type(norm[0]) is SyncedBatchNorm2d
    assert type(copy.deepcopy(norm)[0]) is nn.BatchNorm2d
    written = io.BytesIO()
    torch.save(norm, written)
    written.seek(0)
    read = torch.load(written, weights_only=False)
    assert type(read[0]) is nn.BatchNorm2d
    assert torch.equal(read[0].running_var, norm[0].running_var)


def test_without_a_group_it_is_plain_batch_norm() -> None:
    synced, plain, x = nn.BatchNorm2d(3), nn.BatchNorm2d(3), torch.randn(2, 3, 4, 4)
    synchronise(synced)
    assert torch.equal(synced(x), plain(x))
