# SPDX-License-Identifier: AGPL-3.0-or-later
"""Random states survive a file."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from yolov12.engine import randomness
from yolov12.engine.hostcopy import Copies
from yolov12.engine.packing import Packed

CPU = torch.device("cpu")


def drawn() -> tuple[float, float, float, float]:
    return random.random(), random.gauss(), float(np.random.rand()), float(torch.rand(()))


def test_what_is_drawn_after_going_on_is_what_would_have_been_drawn(tmp_path: Path) -> None:
    random.gauss()  # leaves a second number behind
    np.random.randn()
    torch.save([randomness.states(CPU)], tmp_path / "states.pt")
    expected = drawn()
    saved = torch.load(tmp_path / "states.pt", weights_only=True)
    drawn()
    randomness.restore(saved, CPU, rank=0, ranks=1, seed=0)
    assert drawn() == expected


def test_each_rank_goes_on_from_its_own_states_in_a_checkpoint_where_they_share_a_storage(tmp_path: Path) -> None:
    saved, expected = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        saved.append(randomness.states(CPU))
        expected.append(float(torch.rand(())))
    copies = Copies()
    tensors = [tensor for state in saved for tensor in (state["torch"], state["numpy"][1])]
    packed = Packed({}, copies, joined=copies.add(tensors), more=("random", saved))
    packed.save(tmp_path / "last.pt", copies.flats)
    read = torch.load(tmp_path / "last.pt", weights_only=True)["random"]
    assert read[2]["torch"].storage_offset()
    for rank in range(3):
        randomness.restore(read, CPU, rank, ranks=3, seed=0)
        assert float(torch.rand(())) == expected[rank]


def test_another_number_of_ranks_begins_anew_from_the_seed_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    def after(rank: int) -> tuple[float, float, float, float]:
        randomness.restore([randomness.states(CPU)], CPU, rank, ranks=2, seed=7)
        return drawn()

    assert after(0) == after(0) != after(1)
    assert "begin anew: 1 rank(s) were saved, 2 go on" in capsys.readouterr().err
