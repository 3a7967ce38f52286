# SPDX-License-Identifier: AGPL-3.0-or-later
"""The range test on the real trainer: what it asks for, what it leaves behind, and that it changes nothing."""

from __future__ import annotations

import copy
import csv
import hashlib
import math
import random
import re
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.docs import shapes
from tests.unit.tools.lr_find_state import SMALL, changed, held
from yolov12 import YOLO, cli, settings
from yolov12.data import synth
from yolov12.engine.loop import Loop
from yolov12.errors import UserError
from yolov12.tools import lr_find
from yolov12.tools.lr_find import LrFindTrainer, Range


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return synth.write(tmp_path_factory.mktemp("data") / "synth", n_train=10, n_val=4, imgsz=64)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"lr_min": 0.1, "lr_max": 0.01}, "lr_min=0.1 and lr_max=0.01 are no range"),
        ({"lr_min": 0.0}, "lr_min=0 and lr_max=1 are no range"),
        ({"lr_max": float("inf")}, "are numbers"),
        ({"lr_min": "small"}, "are numbers"),
        ({"steps": 3}, "steps=3 is too few"),
        ({"steps": 30.5}, "steps=30.5 is too few"),
    ],
)
def test_a_range_that_is_none_is_refused(asked, words):
    with pytest.raises(UserError, match=re.escape(words)):
        Range(**asked)


def test_learning_rates_grow_by_one_factor():
    lrs = Range(lr_min=1e-4, lr_max=1e-2, steps=21).lrs()
    assert len(lrs) == 21
    assert lrs[0] == pytest.approx(1e-4)
    assert lrs[-1] == pytest.approx(1e-2)
    assert np.ptp(np.diff(np.log(lrs))) < 1e-9


def test_without_data_and_for_another_task_it_says_what_it_needs(data, capsys):
    assert cli.main(["lr-find", "model=yolov12n.yaml"]) == 2
    assert "lr-find needs data=" in capsys.readouterr().err
    assert cli.main(["lr-find", f"data={data}", "model=yolov12n-seg.yaml"]) == 2


@pytest.fixture(scope="module")
def tested(data, tmp_path_factory):
    """A trainer after five updates of a range test, and what it held before and after."""
    folder = tmp_path_factory.mktemp("lr-find")
    trainer = LrFindTrainer(
        overrides={
            **SMALL,
            "model": "yolo12n.yaml",
            "data": str(data),
            "project": str(folder),
            "name": "run",
            "mode": "train",
        }
    )
    trainer._setup_train()
    loop = Loop(trainer)
    seen: list[list[float]] = []
    before = held(trainer)
    update = loop.update.run

    def noted() -> None:
        seen.append([group["lr"] for group in trainer.optimizer.param_groups])
        update()

    loop.update.run = noted
    with lr_find.as_before(trainer):
        curve = lr_find.run(loop, [1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
        during = held(trainer)
    trainer.curve = curve
    return trainer, before, during, held(trainer), seen


def test_each_update_has_its_learning_rate_in_every_group(tested):
    assert tested[4] == [[lr] * 3 for lr in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)]
    assert tested[0].curve.lrs == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    assert all(np.isfinite(tested[0].curve.losses))


def test_it_trains_while_it_tests(tested):
    _, before, during, _, _ = tested
    assert {"model", "ema", "optimizer", "group"} <= {name.split()[0] for name in changed(before, during)}


def test_afterwards_everything_is_as_before_to_the_bit(tested):
    _, before, _, after, _ = tested
    assert changed(before, after) == []


@pytest.fixture
def small():
    """What `as_before` looks at, without a training: one layer with batch norm, SGD with momentum, fp16's loss scale."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    average = SimpleNamespace(ema=copy.deepcopy(model), updates=7)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    trainer = SimpleNamespace(
        model=model, ema=average, optimizer=optimizer, scaler=scaler, device=torch.device("cpu"), train=None
    )
    spoil(trainer)  # so that the optimizer has a state
    return trainer


def spoil(trainer) -> None:
    """An update that overflows nothing, one that does, and whatever else a step may touch."""
    for factor in (1.0, math.inf):
        trainer.optimizer.zero_grad()
        trainer.scaler.scale(trainer.model(torch.randn(4, 3)).square().sum() * factor).backward()
        trainer.scaler.step(trainer.optimizer)
        trainer.scaler.update()
    for group in trainer.optimizer.param_groups:
        group["lr"], group["momentum"] = group["lr"] * 3, 0.5
    with torch.no_grad():
        trainer.ema.ema[0].weight.mul_(0.5)
    trainer.ema.updates += 2
    random.random()
    np.random.rand()


def test_loss_scale_groups_and_momentum_are_put_back_too(small):
    before = held(small)
    with lr_find.as_before(small):
        spoil(small)
        touched = changed(before, held(small))
    assert {"scaler", "group 0", "torch", "numpy", "python", "ema updates", "model 1.num_batches_tracked"} <= set(
        touched
    )
    assert any(name.startswith("optimizer") for name in touched)
    assert changed(before, held(small)) == []
    assert all(parameter.grad is None for parameter in small.model.parameters())


@pytest.mark.parametrize("error", [UserError("no"), KeyboardInterrupt(), MemoryError()])
def test_a_test_that_ends_badly_puts_everything_back(small, error):
    before = held(small)

    def broken() -> None:
        with lr_find.as_before(small):
            spoil(small)
            raise error

    with pytest.raises(type(error)):
        broken()
    assert changed(before, held(small)) == []


def test_weights_that_are_no_numbers_any_more_are_put_back(small):
    before = held(small)
    with lr_find.as_before(small), torch.no_grad():
        for parameter in small.model.parameters():
            parameter.fill_(math.nan)
    assert changed(before, held(small)) == []


def test_the_verb_runs_on_the_cpu_and_leaves_the_weights_that_it_was_given(data, tmp_path, monkeypatch, capfd):
    weights = tmp_path / "mine.pt"
    YOLO("yolov12n.yaml").save(weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    monkeypatch.chdir(tmp_path)
    words = "steps=20 lr_min=1e-4 lr_max=0.1 imgsz=64 batch=8 nbs=8 workers=0 device=cpu mosaic=0".split()
    code = cli.main(["lr-find", f"data={data}", f"model={weights}", f"project={tmp_path / 'runs'}", *words])
    said = "".join(capfd.readouterr())
    assert code == (0 if "lr-find: suggested lr0=" in said else 2)
    assert "lr-find: optimizer=SGD, since optimizer=auto ignores lr0" in said
    rows = list(csv.DictReader((tmp_path / "runs/lr-find/lr_find.csv").open()))
    assert 8 <= len(rows) <= 20
    assert float(rows[0]["lr"]) == pytest.approx(1e-4)
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == digest
    left = {file.name for file in (tmp_path / "runs/lr-find").iterdir()}
    assert left == {"args.yaml", "lr_find.csv", "lr_find.png"}


def test_a_curve_without_a_fall_leaves_its_files_and_says_what_to_type(tested, capsys):
    trainer = tested[0]
    with pytest.raises(UserError, match="never fell clearly"):
        lr_find.report(trainer)
    rows = list(csv.DictReader((trainer.save_dir / "lr_find.csv").open()))
    assert len(rows) == 5
    assert (trainer.save_dir / "lr_find.png").is_file()


def test_a_curve_with_a_fall_says_what_to_type(tested, capfd, monkeypatch):
    trainer = tested[0]
    monkeypatch.setattr(
        trainer, "typed", {"model": "yolov12n.yaml", "data": "my set.yaml", "nbs": "16", "steps": "50", "name": "a"}
    )
    lrs = Range().lrs()
    trainer.curve = lr_find.Curve(lrs, [10 - 5 * min(max(np.log10(lr) + 4, 0), 2) / 2 + 50 * lr**2 for lr in lrs])
    found = lr_find.report(trainer)
    said = "".join(capfd.readouterr())
    assert f"suggested lr0={found.lr:g}" in said
    typed = shlex.split(re.search(r"lr-find: next: \S*yolov12 (train .*)", said)[1])
    assert typed[1:3] == ["model=yolov12n.yaml", "data=my set.yaml"]
    assert typed[-3:] == ["nbs=16", "optimizer=SGD", f"lr0={found.lr:g}"]
    assert shapes.mistake(["yolov12", *typed]) == ""


def test_the_next_training_has_what_was_typed_for_it_and_not_what_the_test_alone_needed(monkeypatch):
    monkeypatch.setenv("YOLOV12_SYNC_BN", "1")
    monkeypatch.setattr(settings, "origin", lambda name: "command line" if name == "sync_bn" else "default")
    options = {
        "data": "synth",
        "batch": -1,
        "device": [0, 1],
        "lr_max": 0.1,
        "lr0": 0.5,
        "optimizer": "auto",
        "single_cls": True,
    }
    args = SimpleNamespace(model="yolo12n.yaml", data="/bundled/data.yaml", batch=24, imgsz=640, optimizer="SGD")
    assert lr_find.next_words(args, lr_find.as_typed(options), 0.02) == (
        "model=yolo12n.yaml data=synth batch=24 imgsz=640 device=0,1 single_cls=True sync_bn=1 optimizer=SGD lr0=0.02".split()
    )
