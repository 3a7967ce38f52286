# SPDX-License-Identifier: AGPL-3.0-or-later
"""Updates that run out of the GPU's own memory, half-way and at their end, keep the bits of those that did not. Needs an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks.faults import exhaust
from tests.unit.engine.test_update import Run, assert_same

BUDGET_BYTES = 2 * 2**30


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """So that taking all of it takes no time."""
    torch.cuda.set_per_process_memory_fraction(BUDGET_BYTES / torch.cuda.get_device_properties(0).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("fp16", [False, True], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", ["SGD", "MuSGD", "AdamW", "NAdam", "RMSprop"])
@pytest.mark.parametrize("point", ["optimizer", "ema"])
def test_the_gpus_own_out_of_memory_in_an_update_is_undone(name: str, point: str, fp16: bool) -> None:
    expected = Run(name, fp16, "cuda").step(4)
    run = Run(name, fp16, "cuda").step(2)
    owner, method = (run.trainer.optimizer, "step") if point == "optimizer" else (run.trainer.ema, "update")
    original, left = getattr(owner, method), iter(range(2))

    def call(*args: object, **kwargs: object) -> object:
        result = original(*args, **kwargs)
        if next(left, None) is not None:
            exhaust("cuda")
        return result

    setattr(owner, method, call)
    run.step(2)
    assert run.history.count("update") == 2
    assert_same(run.everything(), expected.everything())


def test_nothing_that_an_update_allocates_stays() -> None:
    run = Run("SGD", False, "cuda").step(1)
    before = torch.cuda.memory_allocated()
    run.step(3)
    assert torch.cuda.memory_allocated() == before
