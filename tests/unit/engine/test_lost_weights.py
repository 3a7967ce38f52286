# SPDX-License-Identifier: AGPL-3.0-or-later
"""Weights that are not finite are seen at an epoch's end also where no loss has told of them yet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from yolov12.engine import lost_weights


def run(*, loss: float = 1.0, fitness: float = 0.5, weight: float = 1.0) -> Any:
    """A trainer, as far as it is asked; `waits` counts how often its saver was waited for."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.bias[0] = weight
    trainer = SimpleNamespace(
        loss=torch.tensor(loss),
        fitness=fitness,
        start_epoch=0,
        model=model,
        optimizer=torch.optim.AdamW(model.parameters()),
        world=SimpleNamespace(is_alone=True),
        waits=0,
    )
    trainer.saver = SimpleNamespace(wait=lambda: setattr(trainer, "waits", trainer.waits + 1))
    return trainer


def recover(trainer: Any, epoch: int) -> bool:
    """As ultralytics does, by the loss and the fitness alone."""
    return lost_weights.recover(
        trainer, epoch, lambda _: not (trainer.loss.isfinite() and torch.tensor(trainer.fitness).isfinite())
    )


def test_finite_weights_are_trained_further() -> None:
    trainer = run()
    assert not recover(trainer, epoch=1)
    assert trainer.waits == 0


@pytest.mark.parametrize("lost", [{"loss": float("nan")}, {"fitness": float("inf")}, {"weight": float("nan")}])
def test_lost_ones_are_loaded_anew_once_the_last_file_is_written(lost: dict[str, float]) -> None:
    trainer = run(**lost)
    loss = trainer.loss
    assert recover(trainer, epoch=1)
    assert trainer.waits == 1
    assert trainer.loss is loss


def test_loaded_state_of_the_optimizer_is_laid_out_as_the_weights() -> None:
    trainer = run(loss=float("nan"))
    weight = trainer.model.weight
    trainer.optimizer.state[weight] = {"exp_avg": torch.rand(2, 2).T}
    assert recover(trainer, epoch=1)
    assert trainer.optimizer.state[weight]["exp_avg"].stride() == weight.stride()


def test_before_the_first_checkpoint_the_weights_are_not_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert not recover(run(weight=float("nan")), epoch=0)
    assert not capsys.readouterr().err
