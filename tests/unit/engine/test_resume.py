# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where a resumed run begins. Whole runs are in tests/faults/test_resume.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.unit.engine.tiny import model, step
from yolov12.data.loader import PictureLoader
from yolov12.data.order import Order, Plan
from yolov12.engine import resume
from yolov12.engine.checkpoint import KEY
from yolov12.engine.data_wait import DataWait
from yolov12.engine.pipeline import Watch
from yolov12.errors import UserError

CPU = torch.device("cpu")


def a_loop(plan: Plan) -> Any:
    """What `resume` reads of a loop, before its first epoch."""
    trainer = SimpleNamespace(
        train_loader=SimpleNamespace(order=Order(plan)),
        start_epoch=3,
        epochs=9,
        device=CPU,
        world=SimpleNamespace(rank=0, size=1),
        vote_group=None,
        args=SimpleNamespace(seed=0, model="last.pt"),
        loss=torch.tensor(7.0),
        tloss={"box_loss": torch.tensor(2.0)},
    )
    trainer.model = model()
    named: list[Any] = []
    return SimpleNamespace(
        trainer=trainer,
        batches_per_epoch=plan.batches(),
        last_update=-1,
        step=step(trainer.model),
        name_losses=named.append,
        named=named,
        mean_losses=None,
        place=(3, 0),
        pipeline=Watch(trainer, DataWait()),
    )


@pytest.fixture(scope="module")
def saved() -> dict[str, Any]:
    """By a run that had done 2 of 5 batches of its fourth epoch, and one of them since an update."""
    loop = a_loop(Plan(10, 2))
    loop.last_update = 5 * 3  # the first batch of that epoch
    loop.step.held[0] = torch.ones_like(loop.step.parameters[0], requires_grad=False)
    return resume.saved_by(loop, epoch=3, seen=4, batches=2)


def test_it_goes_on_in_the_middle_of_the_epoch(saved: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    loop = a_loop(Plan(10, 2))
    resume.go_on(loop, saved)
    assert loop.place == (3, 4)
    assert loop.last_update == 5 * 3
    assert torch.equal(loop.step.held[0], torch.ones_like(loop.step.parameters[0]))
    assert float(loop.mean_losses["box_loss"]) == 2.0
    assert "resume: epoch 4 of 9, after 4 of its 10 samples" in capsys.readouterr().err


def test_a_setting_that_is_not_typed_again_is_told(
    saved: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resume.go_on(a_loop(Plan(10, 2)), saved)
    assert "WARNING" not in capsys.readouterr().err
    monkeypatch.setenv("YOLOV12_GRAD_CLIP", "max_rank")
    resume.go_on(a_loop(Plan(10, 2)), saved)
    assert (
        "resume: the run was begun with grad_clip=global, and goes on with grad_clip=max_rank: type grad_clip=global"
        in capsys.readouterr().err
    )


def test_a_loader_that_draws_other_random_numbers_is_told(
    saved: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    loop = a_loop(Plan(10, 2))
    loop.trainer.train_loader = PictureLoader.__new__(PictureLoader)
    loop.trainer.train_loader.order = Order(Plan(10, 2))
    loop.trainer.train_loader.is_outdated = lambda: False
    resume.go_on(loop, saved)
    for _ in range(2):  # epochs
        loop.pipeline.at_epoch_start()
    assert (
        capsys.readouterr().err.count(
            "resume: the run was begun with data_pipeline=cpu, and goes on with data_pipeline=gpu: type data_pipeline=cpu"
        )
        == 1
    )


def test_a_loader_that_a_script_takes_back_again_is_no_change(
    saved: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """`auto` took ours in both runs, and both scripts changed the data set's transforms before the first epoch."""
    loop = a_loop(Plan(10, 2))
    ultralytics, loop.trainer.train_loader = loop.trainer.train_loader, PictureLoader.__new__(PictureLoader)
    ours = loop.trainer.train_loader
    ours.order, ours.dataset = ultralytics.order, None
    ours.is_outdated, ours.close = lambda: True, lambda: None
    loop.trainer.upstreams_loader, loop.trainer.build_dataset, loop.trainer.epoch = lambda: ultralytics, None, 3
    resume.go_on(loop, saved)
    loop.pipeline.at_epoch_start()
    assert loop.trainer.train_loader is ultralytics
    assert "WARNING" not in capsys.readouterr().err


def test_a_checkpoint_that_says_auto_tells_nothing_of_its_loader(
    saved: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    loop = a_loop(Plan(10, 2))
    resume.go_on(loop, saved | {"settings": saved["settings"] | {"data_pipeline": "auto"}})
    loop.pipeline.at_epoch_start()
    assert "WARNING" not in capsys.readouterr().err


def test_another_batch_cuts_what_is_left(saved: dict[str, Any]) -> None:
    loop = a_loop(Plan(10, 3))
    resume.go_on(loop, saved)
    assert loop.place == (3, 4)
    # 6 samples are left, so 2 of 4 batches are done; the update was one batch ago
    assert loop.last_update == 4 * 3 + 2 - 1 - 1


def test_a_data_set_of_another_size_begins_the_epoch_anew(
    saved: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    loop = a_loop(Plan(12, 2))
    resume.go_on(loop, saved)
    assert loop.place == (3, 0)
    assert loop.mean_losses is None
    assert "the data set has 12 samples, it had 10: epoch 4 begins anew" in capsys.readouterr().err


@pytest.mark.parametrize("checkpoint", [None, {}, {KEY: None}, {KEY: {"form": resume.FORM + 1}}])
def test_a_checkpoint_of_stock_or_of_another_form_is_read_as_stock_would(checkpoint: dict[str, Any] | None) -> None:
    assert resume.found_in(checkpoint) is None


def test_a_run_whose_epochs_are_done_has_nothing_to_resume(saved: dict[str, Any]) -> None:
    trainer = a_loop(Plan(10, 2)).trainer
    with pytest.raises(UserError, match="all 9 epochs of its run are done"):
        resume.load(trainer, {}, {**saved, "epoch": 9})


def test_what_is_saved_is_plain_data(saved: dict[str, Any], tmp_path: Any) -> None:
    """So that loaders that run no code take it."""
    torch.save(saved, tmp_path / "more.pt")
    assert torch.load(tmp_path / "more.pt", weights_only=True)["seen"] == 4
