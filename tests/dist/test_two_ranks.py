# SPDX-License-Identifier: AGPL-3.0-or-later
"""Two gloo ranks on the CPU: they equal one process, vote before they communicate, and fail together. Needs no GPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch

from tests.dist.ranks import run
from tests.unit.engine.lending import images, small_step
from tests.unit.engine.tiny import assert_equal_gradients, batch, gradients, model, step
from yolov12.data.order import GHOST
from yolov12.distributed import world
from yolov12.distributed.reduce import broadcast_from_first, buckets, sum_over_ranks
from yolov12.distributed.vote import Wish, smallest, vote
from yolov12.engine import step as step_module
from yolov12.engine.attempt import fill_missing
from yolov12.engine.last_resort import LastResort
from yolov12.errors import RetryableError
from yolov12.memory.micro_batch import split
from yolov12.memory.smaller_images import SmallerImages

BOXES = [3, 0, 7, 1, 12, 2]
OUT_OF_MEMORY = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


def join() -> Any:
    """Enter the groups of this test's world; return the group for votes."""
    return world.join(world.from_environment(), torch.device("cpu"), timeout_s=60, rendezvous_timeout_s=60)


def gradients_of_one_process(steps: int) -> dict[str, torch.Tensor]:
    of = model()
    runner = step(of)
    for seed in range(steps):
        runner.run(batch(BOXES, seed=seed))
    runner.take_gradients()
    return gradients(of)


def _gradients_of_a_rank(rank: int, parts: int, steps: int, out_of_memory_on: int | None) -> dict[str, torch.Tensor]:
    group = join()
    of = model()
    runner = step(of, vote_group=group)
    if rank == out_of_memory_on:
        calls = iter(range(1000))

        def forward(one: dict[str, Any]) -> Any:
            result = of(one)
            if next(calls) == 0:
                raise OUT_OF_MEMORY
            return result

        runner.forward_loss = forward
    for seed in range(steps):
        runner.run(split(batch(BOXES, seed=seed), parts)[rank])
    runner.take_gradients()
    return gradients(of)


def test_two_ranks_equal_one_process_with_the_whole_batch() -> None:
    expected = gradients_of_one_process(steps=2)
    for answer in run(_gradients_of_a_rank, 2, 2, 2, None):
        assert_equal_gradients(answer, expected, rtol=1e-5)


def _no_room_for_what_is_reduced(rank: int) -> dict[str, torch.Tensor]:
    """On the first rank, once, after its backward: for the zeros of parameters that got no gradient."""
    of = model()
    runner = step(of, vote_group=join())
    calls = iter(range(1000))

    def fails_at_first(parameters: Any) -> None:
        if rank == 0 and next(calls) == 0:
            raise OUT_OF_MEMORY
        fill_missing(parameters)

    step_module.fill_missing = fails_at_first
    runner.run(split(batch(BOXES, seed=0), 2)[rank])
    runner.take_gradients()
    return gradients(of)


def test_running_out_of_memory_before_the_reduction_is_heard_in_the_vote() -> None:
    expected = gradients_of_one_process(steps=1)
    for answer in run(_no_room_for_what_is_reduced, 2):
        assert_equal_gradients(answer, expected, rtol=1e-5)


def _with_a_ghost_on_the_second_rank(rank: int) -> dict[str, torch.Tensor]:
    """The first rank has the whole batch; the second has no image, and borrows one of another batch."""
    of = model()
    runner = step(of, vote_group=join())
    runner.run(batch(BOXES, seed=0) if rank == 0 else {**batch([4], seed=9), GHOST: (True,)})
    runner.take_gradients()
    return gradients(of)


def test_a_rank_without_an_image_takes_part_and_weighs_nothing() -> None:
    expected = gradients_of_one_process(steps=1)
    for answer in run(_with_a_ghost_on_the_second_rank, 2):
        assert_equal_gradients(answer, expected, rtol=1e-5)


def test_when_one_rank_runs_out_of_memory_both_repeat_the_step_and_still_equal_one_process() -> None:
    expected = gradients_of_one_process(steps=1)
    for answer in run(_gradients_of_a_rank, 2, 2, 1, 1):
        assert_equal_gradients(answer, expected, rtol=1e-5)


def _answers_of_all(rank: int) -> list[str]:
    return world.from_all(f"of rank {rank}", join())


def test_every_rank_hears_every_ranks_answer_in_their_order() -> None:
    assert run(_answers_of_all, 2) == [["of rank 0", "of rank 1"]] * 2


def _told_why_one_image_does_not_fit(rank: int) -> None:
    of = model()
    runner = step(of, vote_group=join())
    runner.micro_batches = 3
    if rank == 1:
        runner.explain_failure = lambda: "; memory went to: model.0"

        def forward(one: dict[str, Any]) -> Any:
            raise OUT_OF_MEMORY

        runner.forward_loss = forward
    runner.run(split(batch(BOXES), 2)[rank])


def test_what_one_rank_found_out_about_its_memory_stands_in_the_error_of_all() -> None:
    for answer in run(_told_why_one_image_does_not_fit, 2):
        assert isinstance(answer, RetryableError)
        assert str(answer).endswith("; memory went to: model.0")


class FixedPlan:
    """A memory plan that asks for so many micro-batches and can not be tightened."""

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def before(self, shape: tuple[int, ...]) -> int:
        return self.parts

    def watched(self, *_: object) -> AbstractContextManager[None]:
        return nullcontext()

    def fits_now(self) -> bool:
        return False

    def tighten(self) -> None:
        return None


def _under_unequal_plans(rank: int, always: bool) -> dict[str, torch.Tensor]:
    """The first rank is planned at one image at a time; the second runs out of memory once, or always."""
    of = model()
    runner = step(of, vote_group=join())
    runner.recomputation = FixedPlan(parts=3 if rank == 0 else 1)
    calls = iter(range(1000))

    def forward(one: dict[str, Any]) -> Any:
        result = of(one)
        if rank == 1 and (next(calls) == 0 or always):
            raise OUT_OF_MEMORY
        return result

    runner.forward_loss = forward
    runner.run(split(batch(BOXES, seed=0), 2)[rank])
    runner.take_gradients()
    return gradients(of)


def test_a_rank_that_is_planned_at_one_image_goes_on_when_another_must_cut_its_batch() -> None:
    expected = gradients_of_one_process(steps=1)
    for answer in run(_under_unequal_plans, 2, False):
        assert_equal_gradients(answer, expected, rtol=1e-5)


def test_where_not_one_image_fits_all_ranks_end_and_say_so() -> None:
    for ended in run(_under_unequal_plans, 2, True):
        assert isinstance(ended, RetryableError)
        assert "out of memory with one image at a time (rank 1: " in str(ended)


def _one_image_does_not_fit_on_the_second_rank(rank: int, limit_px: int) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Both may train on smaller images; on the second rank only those up to `limit_px` fit."""
    of = model()
    runner = step(of, vote_group=join())
    runner.last_resort = LastResort(SmallerImages(imgsz=128, stride=32), runner.history)
    runner.waits_s = ()
    sides = []

    def forward(one: dict[str, Any]) -> Any:
        sides.append(one["img"].shape[-1])
        result = of(one)
        if rank == 1 and sides[-1] > limit_px:
            raise OUT_OF_MEMORY
        return result

    runner.forward_loss = forward
    for seed in range(2):
        runner.run(split(batch(BOXES[:4], imgsz=128, seed=seed), 2)[rank])
    runner.take_gradients()
    return sides, gradients(of)


def test_smaller_images_on_one_rank_leave_the_others_their_size_and_all_have_the_same_update() -> None:
    (first_sides, first), (second_sides, second) = run(_one_image_does_not_fit_on_the_second_rank, 2, 96)
    assert set(first_sides) == {128}
    # both images, then one of two at each size until 96 fits; the next step begins there
    assert second_sides == [128, 128, 96, 96, 96, 96]
    assert_equal_gradients(second, first, rtol=0)


def test_where_the_smallest_images_do_not_fit_on_one_rank_all_end() -> None:
    for ended in run(_one_image_does_not_fit_on_the_second_rank, 2, 32):
        assert isinstance(ended, RetryableError)
        assert "out of memory with one image at a time (rank 1: " in str(ended)


def _fails_on_the_second_rank(rank: int) -> None:
    group = join()
    of = model()
    runner = step(of, vote_group=group)
    if rank == 1:

        def forward(one: dict[str, Any]) -> Any:
            raise ValueError("a label is odd")

        runner.forward_loss = forward
    runner.run(batch([1, 2]))


def test_when_one_rank_fails_both_end_and_the_other_names_it() -> None:
    first, second = run(_fails_on_the_second_rank, 2)
    assert isinstance(second, ValueError)
    assert isinstance(first, RetryableError)
    assert "rank 1: ValueError: a label is odd" in str(first)


def _votes(rank: int, failing: set[int]) -> dict[int, str]:
    return vote(f"reason {rank}" if rank in failing else None, join()).reasons


@pytest.mark.parametrize("failing", [set(), {1}, {0, 2}])
def test_every_rank_learns_who_failed_and_why(failing: set[int]) -> None:
    expected = {rank: f"reason {rank}" for rank in failing}
    assert run(_votes, 3, failing) == [expected] * 3


def _says(rank: int) -> int:
    return smallest(10 - rank, join())


def test_every_rank_learns_the_smallest_number() -> None:
    assert run(_says, 3) == [8, 8, 8]


def _hears(rank: int, wishes: list[Wish]) -> Wish:
    return step(model(), vote_group=join()).run(batch([1, 2]), wishes[rank]).wish


@pytest.mark.parametrize("wishes", [[Wish.GO_ON, Wish.STOP], [Wish.TERMINATE, Wish.STOP]])
def test_the_strongest_wish_is_heard_by_all_after_the_same_step(wishes: list[Wish]) -> None:
    assert run(_hears, 2, wishes) == [max(wishes)] * 2


def _reduced(rank: int) -> list[torch.Tensor]:
    join()
    tensors = [
        torch.full((2, 3), float(rank + 1)),
        torch.arange(6.0).view(2, 3).t() * (rank + 1),  # not contiguous
        torch.full((5,), rank + 1, dtype=torch.int64),
        torch.tensor(float(rank)),
    ]
    sum_over_ranks(tensors, bucket_bytes=32)
    return tensors


def test_sums_keep_shape_strides_and_dtype() -> None:
    for square, transposed, whole, scalar in run(_reduced, 2):
        assert torch.equal(square, torch.full((2, 3), 3.0))
        assert torch.equal(transposed, torch.arange(6.0).view(2, 3).t() * 3)
        assert torch.equal(whole, torch.full((5,), 3))
        assert float(scalar) == 1.0


def _broadcast(rank: int) -> list[torch.Tensor]:
    join()
    tensors = [torch.full((3, 2), float(rank + 7)), torch.tensor(rank + 7)]
    broadcast_from_first(tensors)
    return tensors


def test_all_ranks_take_over_the_values_of_the_first() -> None:
    for floats, integer in run(_broadcast, 2):
        assert torch.equal(floats, torch.full((3, 2), 7.0))
        assert int(integer) == 7


def test_buckets_keep_order_and_size() -> None:
    tensors = [torch.zeros(4), torch.zeros(4), torch.zeros(4), torch.zeros(100), torch.zeros(1, dtype=torch.float64)]
    packed = buckets(tensors, bucket_bytes=32)
    assert [[t.numel() for t in bucket] for bucket in packed] == [[4, 4], [4], [100], [1]]


def _lent_and_own(rank: int) -> list[list[torch.Tensor]]:
    group, found = join(), []
    for lends in (True, False):
        runner = small_step(lends=lends, vote_group=group)
        for update in range(2):
            for i in range(2):
                runner.run(images(10 * update + 2 * i + rank))
            runner.take_gradients()
            found.append([parameter.grad.clone() for parameter in runner.parameters if parameter.grad is not None])
            for parameter in runner.parameters:
                parameter.grad = None
    return found


def test_gradients_that_a_graph_lends_are_summed_over_ranks_with_the_same_bits() -> None:
    first, second = run(_lent_and_own, 2)
    lent, own = first[:2], first[2:]
    assert len(lent[0]) == len(small_step().parameters)
    for ours, expected in zip([*lent, *second[:2]], [*own, *own], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
