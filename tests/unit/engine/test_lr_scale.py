# SPDX-License-Identifier: AGPL-3.0-or-later
"""lr_scale=linear: what becomes of the learning rate and the decay, what is said, and that a resumed run keeps its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn, optim

from yolov12.engine import lr_scale
from yolov12.engine.trainer import YOLOv12Trainer

DECAY = 0.0005


def trainer(batch: int, accumulate: int = 1, optimizer: str = "SGD") -> Any:
    """Ours, as far as it is when ultralytics asks it for an optimizer (engine/trainer.py:327)."""
    made = object.__new__(YOLOv12Trainer)
    made.batch_size, made.accumulate, made.data = batch, accumulate, {"nc": 80}
    made.args = SimpleNamespace(
        nbs=64,
        lr0=0.01,
        weight_decay=DECAY,
        warmup_epochs=3.0,
        warmup_bias_lr=0.1,
        optimizer=optimizer,
        cos_lr=False,
        lrf=0.01,
    )
    made.epochs = 10
    return made


def built(of: Any, iterations: int = 100) -> optim.Optimizer:
    """As ultralytics' trainer asks for it, with its decay (engine/trainer.py:322)."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    decay = DECAY * of.batch_size * of.accumulate / of.args.nbs
    return of.build_optimizer(model, of.args.optimizer, of.args.lr0, 0.9, decay, iterations)


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOV12_LR_SCALE", "linear")


def of_weights(optimizer: optim.Optimizer) -> dict[str, Any]:
    return next(group for group in optimizer.param_groups if group["param_group"] == "weight")


def test_unasked_everything_is_as_stock_makes_it(capfd: pytest.CaptureFixture[str]) -> None:
    group = of_weights(built(trainer(256)))
    assert (group["lr"], group["weight_decay"]) == (0.01, 4 * DECAY)
    assert "lr_scale" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("batch", "accumulate", "said"),
    [
        (256, 1, "an update has 256 images (batch=256), and the base is nbs=64: lr0 x 4: 0.01 -> 0.04"),
        (48, 1, "an update has 48 images (batch=48), and the base is nbs=64: lr0 x 0.75: 0.01 -> 0.0075"),
        (24, 3, "an update has 72 images (batch=24 x 3), and the base is nbs=64: lr0 x 1.125: 0.01 -> 0.01125"),
    ],
)
def test_lr0_follows_the_images_of_an_update_and_the_decay_is_that_of_the_base(
    linear, capfd, batch: int, accumulate: int, said: str
) -> None:
    optimizer = built(trainer(batch, accumulate))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01 * batch * accumulate / 64] * 3)
    assert of_weights(optimizer)["weight_decay"] == pytest.approx(DECAY)
    printed = "".join(capfd.readouterr())
    assert said in printed
    assert "weight decay as at the base, 0.0005; warm-up kept (3 epochs, biases from 0.1)" in printed


def test_at_the_base_nothing_changes_and_that_is_said(linear, capfd) -> None:
    assert of_weights(built(trainer(16, accumulate=4)))["lr"] == 0.01
    assert "(batch=16 x 4), and the base is nbs=64: lr0=0.01 stays" in "".join(capfd.readouterr())


def test_what_optimizer_auto_chose_is_scaled_and_the_arguments_keep_its_choice(linear, capfd) -> None:
    of = trainer(128, optimizer="auto")
    optimizer = built(of)
    assert of.args.lr0 > 0
    assert of_weights(optimizer)["lr"] == pytest.approx(2 * of.args.lr0)
    assert "The rule is SGD's; this is AdamW" in "".join(capfd.readouterr())


def test_groups_with_a_multiple_of_lr0_keep_it(linear) -> None:
    of = trainer(128, optimizer="MuSGD")
    plain = [
        group["lr"]
        for group in super(YOLOv12Trainer, of).build_optimizer(head(), "MuSGD", 0.01, 0.9, DECAY).param_groups
    ]
    scaled = [group["lr"] for group in of.build_optimizer(head(), "MuSGD", 0.01, 0.9, DECAY).param_groups]
    assert len(set(plain)) > 1
    assert scaled == pytest.approx([2 * lr for lr in plain])


def head() -> nn.Module:
    """A model whose last layer has what MuSGD boosts: `cv3`."""
    last = nn.Module()
    last.cv3 = nn.ModuleList([nn.Conv2d(4, 4, 1)])
    of = nn.Module()
    of.model = nn.ModuleList([nn.Conv2d(3, 4, 3), last])
    return of


@pytest.mark.parametrize("asked_now", ["none", "linear"])
def test_a_resumed_run_keeps_the_learning_rate_that_it_began_with(monkeypatch, capfd, asked_now: str) -> None:
    monkeypatch.setenv("YOLOV12_LR_SCALE", "linear" if asked_now == "none" else "none")
    before = trainer(256)
    before.optimizer = built(before)
    before._setup_scheduler()
    monkeypatch.setenv("YOLOV12_LR_SCALE", asked_now)
    after = trainer(256)
    after.optimizer = built(after)
    after._setup_scheduler()
    after.optimizer.load_state_dict(before.optimizer.state_dict())
    lr_scale.go_on_as_begun(after)
    assert after.scheduler.base_lrs == before.scheduler.base_lrs
    share = "4" if asked_now == "none" else "0.25"
    assert f"the learning rate that it began with, {share} times what its arguments say now" in "".join(
        capfd.readouterr()
    )
    for trainer_ in (before, after):
        trainer_.scheduler.last_epoch = 4
        trainer_.optimizer.step()
        trainer_.scheduler.step()
    assert [g["lr"] for g in after.optimizer.param_groups] == [g["lr"] for g in before.optimizer.param_groups]


def test_a_resumed_run_with_the_same_rule_says_nothing(linear, capfd) -> None:
    of = trainer(256)
    of.optimizer = built(of)
    of._setup_scheduler()
    capfd.readouterr()
    lr_scale.go_on_as_begun(of)
    assert "".join(capfd.readouterr()) == ""
